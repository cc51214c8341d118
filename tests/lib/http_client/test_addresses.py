"""Rules about IP addresses, in all forms that embed IPv4 addresses."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.http_client.addresses import ALLOW_ALL, AddressRules, embedded_ipv4, parse_networks
from hs.nursery.wiring.http_clients import address_rules
from hs.settings.sections.outgoing import PRIVATE_NETWORKS

RULES = address_rules(PRIVATE_NETWORKS, ())

_PRIVATE = """
127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254
100.64.0.1 192.0.0.1 198.18.0.1 192.0.2.1 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255
240.0.0.1 255.255.255.255 0.0.0.0 0.1.2.3
:: ::1 fe80::1 fe80::1%eth0 fc00::1 fd12:3456::1 ff02::1 fec0::1 2001:db8::1
::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:127.0.0.1%lo ::ffff:10.0.0.1
::ffff:169.254.169.254 ::127.0.0.1 ::ffff:0:127.0.0.1
2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe::
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::10.0.0.1 64:ff9b:1:0a00:0:100::
2001:0:4136:e378:8000:63bf:80ff:fffe 2001:0:a00:1::
fe80::5efe:8.8.8.8 2001:470:1::5efe:127.0.0.1 2001:470:1::200:5efe:10.0.0.1
"""

_PUBLIC = """
8.8.8.8 1.1.1.1 172.32.0.1 172.15.255.255 192.169.0.1 11.0.0.1 223.255.255.255
2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1
"""
PRIVATE, PUBLIC = _PRIVATE.split(), _PUBLIC.split()


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_blocked(text: str) -> None:
    assert not RULES.permits(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_permitted(text: str) -> None:
    assert RULES.permits(ip_address(text))


def test_allowed_networks_override_blocked_ones() -> None:
    rules = address_rules(PRIVATE_NETWORKS, ("10.1.0.0/16", "fd00::/8"))

    assert rules.permits(IPv4Address("10.1.2.3"))
    assert rules.permits(IPv6Address("::ffff:10.1.2.3"))
    assert rules.permits(IPv6Address("fd00::1"))
    assert not rules.permits(IPv4Address("10.2.2.3"))


def test_every_address_is_permitted_without_rules() -> None:
    assert all(ALLOW_ALL.permits(ip_address(text)) for text in [*PRIVATE, *PUBLIC])
    assert address_rules((), ()) is ALLOW_ALL


def test_allowed_address_that_embeds_blocked_one_is_blocked() -> None:
    rules = AddressRules(parse_networks(["127.0.0.0/8"]), parse_networks(["2002::/16"]))

    assert not rules.permits(IPv6Address("2002:7f00:1::"))


ipv4_numbers = st.integers(0, 2**32 - 1)


def forms_of(number: int) -> dict[str, IPv6Address]:
    """Return all forms in which an IPv6 address can embed an IPv4 address."""
    high, low = number >> 16, number & 0xFFFF
    flipped = number ^ 0xFFFFFFFF
    forms = {
        "mapped": (0xFFFF << 32) | number,
        "6to4": (0x2002 << 112) | (number << 80),
        "NAT64": (0x64FF9B << 96) | number,
        "local NAT64, /48": (0x64FF9B0001 << 80) | (high << 64) | (low << 40),
        "local NAT64, /96": (0x64FF9B0001 << 80) | number,
        "Teredo client": (0x20010000 << 96) | (0x08080808 << 64) | flipped,
        "Teredo server": (0x20010000 << 96) | (number << 64) | 0xF7F7F7F7,
        "ISATAP": (0x20010470 << 96) | (0x5EFE << 32) | number,
    }
    return {name: IPv6Address(form) for name, form in forms.items()}


@given(ipv4_numbers)
def test_blocked_address_is_blocked_in_every_embedded_form(number: int) -> None:
    address = IPv4Address(number)
    forms = forms_of(number)

    for name, form in forms.items():
        if name != "mapped":
            assert address in embedded_ipv4(form), name
        assert RULES.permits(address) or not RULES.permits(form), name


@given(st.integers(0, 2**128 - 1))
def test_rules_accept_any_ipv6_address(number: int) -> None:
    RULES.permits(IPv6Address(number))
