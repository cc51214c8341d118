"""What limits per client address count as one client."""

import ipaddress
from functools import lru_cache

_IPV6_BITS = 64


@lru_cache(maxsize=10_000)
def source_of(address: str) -> str:
    """Return the source of an address: an IPv4 address itself, the /64 network of an IPv6 address.

    Providers assign whole networks of that size, so one client has many addresses.
    """
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], _IPV6_BITS), strict=False))
    except ValueError:
        return address
