"""Rules about the IP addresses that may be contacted.

An IPv6 address may embed an IPv4 address, to which a gateway or tunnel on the way forwards the
packets. Such an address is permitted only if both addresses are.
"""

from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

import attrs

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
# The beginning of the interface ID of ISATAP addresses, with the universal bit clear and set.
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOW_32 = (1 << 32) - 1


@attrs.frozen
class AddressRules:
    """Blocked networks, and networks that are allowed nevertheless."""

    blocked: tuple[Network, ...] = ()
    allowed: tuple[Network, ...] = ()

    def permits(self, address: Address) -> bool:
        """Return whether an address may be contacted."""
        if isinstance(address, IPv6Address):
            if address.ipv4_mapped is not None:
                return self._permits_literally(address.ipv4_mapped)
            address = IPv6Address(int(address))  # without its zone, with which no network matches
            return self._permits_literally(address) and all(
                self._permits_literally(embedded) for embedded in embedded_ipv4(address)
            )
        return self._permits_literally(address)

    def _permits_literally(self, address: Address) -> bool:
        return not _is_in(address, self.blocked) or _is_in(address, self.allowed)


ALLOW_ALL = AddressRules()


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse networks such as `10.0.0.0/8`.

    Raises: ValueError.
    """
    return tuple(ip_network(text, strict=False) for text in texts)


def parse_address(text: str) -> Address | None:
    """Parse an IP address; return None if the text is not one."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def embedded_ipv4(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses to which packets for an IPv6 address may be forwarded."""
    number = int(address)
    last = number & _LOW_32
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if (number >> 32) & _LOW_32 in _ISATAP:
        yield IPv4Address(last)
    if address in _NAT64 or address in _TRANSLATED:
        yield IPv4Address(last)
    if address in _LOCAL_NAT64:
        # RFC 6052: with a prefix of 48 bits, the address surrounds bits 64 to 71, which are zero;
        # with a prefix of 96 bits, it is at the end.
        yield IPv4Address(((number >> 64) & 0xFFFF) << 16 | (number >> 40) & 0xFFFF)
        yield IPv4Address(last)
    if address in _COMPATIBLE and last > 1:
        yield IPv4Address(last)


def _is_in(address: Address, ranges: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in ranges)
