"""Whose address a request comes from, when proxies stand in between."""

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=4096)
def client_behind(forwarded: str, peer: str) -> str:
    """Read `X-Forwarded-For`: the last address that is not a proxy of a private network.

    Only the right end was written by our own proxies; what a client sent itself stands on the
    left and is not believed, unless every address is private.
    """
    addresses = [clean for part in forwarded.split(",") if (clean := _clean(part)) is not None]
    for address in reversed(addresses):
        if not ipaddress.ip_address(address).is_private:
            return address
    return addresses[0] if addresses else peer


@lru_cache(maxsize=4096)
def plain_address(address: str) -> str:
    """Write an IPv4 address that came in over an IPv6 socket as IPv4."""
    return _clean(address) or address


def _clean(text: str) -> str | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
