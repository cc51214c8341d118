"""The IP address of a client, also behind reverse proxies."""

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=4096)
def forwarded_client(forwarded_for: str, peer: str) -> str:
    """Return the last public address in `X-Forwarded-For`.

    Each of our proxies, which have private addresses, appends the address of its caller. Addresses
    further to the left may have been sent by the client itself and are not trusted. If no address
    is public, return the first one; if there is none, return `peer`.
    """
    addresses = [
        address for part in forwarded_for.split(",") if (address := _parse(part)) is not None
    ]
    for address in reversed(addresses):
        if not ipaddress.ip_address(address).is_private:
            return address
    return addresses[0] if addresses else peer


@lru_cache(maxsize=4096)
def normalized_address(address: str) -> str:
    """Return an IPv4-mapped IPv6 address as IPv4, and any other address as it is."""
    return _parse(address) or address


def _parse(text: str) -> str | None:
    """Return an address without port, brackets and scope ID; None if it is not an address."""
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
