"""The address of a client behind proxies."""

import logging

import attrs
import pytest

from hs.apis.web.auth import NONE
from hs.apis.web.client_address import TrustedProxies, normalized_address
from hs.apis.web.listener_view import STATE_KEY
from hs.apis.web.request import remote_address
from hs.apis.web.route import route
from hs.lib.client_sources import source_of
from tests.support.web import client_for


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("6.6.6.6, 8.8.8.8", "8.8.8.8"),
        ("6.6.6.6,8.8.8.8:4711", "8.8.8.8"),
        ("[2a00:1450::1]:443", "2a00:1450::1"),
        ("::ffff:8.8.8.8", "8.8.8.8"),
        ("unknown", "10.9.9.9"),
        ("8.8.8.8, unknown", "10.9.9.9"),
        ("", "10.9.9.9"),
    ],
)
def test_client_is_the_address_that_the_proxy_has_added(forwarded: str, client: str) -> None:
    assert TrustedProxies().client_of("10.9.9.9", forwarded) == client


@pytest.mark.parametrize("client", ["10.0.0.5", "127.0.0.1", "192.168.1.7", "fd00::7"])
@pytest.mark.parametrize("networks", [None, ["10.9.9.9"]])
def test_client_with_private_address_cannot_forge_it(
    client: str, networks: list[str] | None
) -> None:
    proxies = TrustedProxies(networks)

    assert proxies.client_of("10.9.9.9", f"8.8.8.8, {client}") == client
    assert proxies.client_of("10.9.9.9", f"8.8.8.8, 10.9.9.9, {client}") == client


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("1.1.1.1, 8.8.8.8, 172.18.0.3, 10.9.9.9", "8.8.8.8"),
        ("1.1.1.1, 10.0.0.5, 172.18.0.3", "10.0.0.5"),
        ("172.18.0.7, 172.18.0.3", "172.18.0.7"),
        ("8.8.8.8, nonsense, 172.18.0.3", "172.18.0.3"),
    ],
)
def test_configured_proxies_in_a_row_are_skipped(forwarded: str, client: str) -> None:
    proxies = TrustedProxies(["10.9.9.9", "172.18.0.0/16"])

    assert proxies.client_of("10.9.9.9", forwarded) == client


@pytest.mark.parametrize(
    ("networks", "peer"), [(None, "8.8.4.4"), (["10.9.9.9"], "10.9.9.8"), ([], "127.0.0.1")]
)
def test_header_of_other_peers_is_ignored(
    networks: list[str] | None, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxies = TrustedProxies(networks)

    for number in range(3):
        assert proxies.client_of(peer, f"8.8.8.{number}") == peer

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "trusted_proxies" in caplog.text


def test_peer_of_a_unix_socket_is_trusted() -> None:
    assert TrustedProxies([]).client_of(None, "6.6.6.6, 8.8.8.8") == "8.8.8.8"


def test_long_header_is_neither_parsed_nor_remembered_whole() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    tail = ", ".join(["10.0.0.1"] * 100)

    addresses = {proxies.client_of("10.9.9.9", f"{number}" * 60_000 + tail) for number in range(9)}

    assert addresses == {"10.0.0.1"}
    assert proxies._client_of.cache_info().currsize == 1


def test_second_private_hop_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert TrustedProxies().client_of("127.0.0.1", "8.8.8.8, 172.18.0.3") == "172.18.0.3"

    assert "if 172.18.0.3 is a reverse proxy" in caplog.text


def test_ipv4_mapped_address_is_normalized() -> None:
    assert normalized_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert normalized_address("2001:db8::1") == "2001:db8::1"


def test_addresses_of_one_ipv6_network_are_one_source() -> None:
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert source_of("2001:db8:0:1::1") != source_of("2001:db8::1")
    assert source_of("192.0.2.1") == "192.0.2.1"


@attrs.frozen
class AddressRequest:
    """The address of the client."""

    client_ip: str = remote_address()


@attrs.frozen
class AddressApi:
    """An endpoint that returns the address of the client."""

    @route("GET", "/address", auth=NONE)
    async def address(self, request: AddressRequest) -> str:
        return request.client_ip


async def test_forwarded_address_is_used_behind_a_proxy() -> None:
    client = client_for(AddressApi())
    forwarded = {"X-Forwarded-For": "1.1.1.1, 8.8.8.8, 10.0.0.1"}
    addresses = []

    for proxies in (None, TrustedProxies(), TrustedProxies(["192.0.2.1", "10.0.0.0/8"])):
        client.state = {STATE_KEY: client.app.view_for(["client"], proxies)}
        addresses.append((await client.get("/address", headers=forwarded)).json)

    assert addresses == ["192.0.2.1", "10.0.0.1", "8.8.8.8"]
