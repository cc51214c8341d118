"""The IP address of a client, also behind reverse proxies.

Rules:

- X-Forwarded-For is read from its end. Each proxy appends the address of its caller, so an address
  is as reliable as the proxy that has appended it: the last address if the peer of the connection
  is a trusted proxy, the one before it if the last address is that of a trusted proxy too, and so
  on. All addresses further to the left may have been written by the client.
- If no proxies are configured, a peer with a private address is trusted, and only for the address
  that it has appended itself: a client with a private address would otherwise pass for a proxy.
- The peer of a UNIX socket is always a trusted proxy.
- An entry that is not an address ends the search.
"""

import ipaddress
import logging
from collections.abc import Iterable
from functools import lru_cache

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LOCAL = "127.0.0.1"
"""The address of a peer on a UNIX socket."""

_CARRIER_GRADE_NAT = ipaddress.IPv4Network("100.64.0.0/10")
# A longer header was written by a client; its end is enough to find the address.
_MAX_HEADER_CHARS = 400
_MAX_WARNINGS = 100


class TrustedProxies:
    """The reverse proxies whose X-Forwarded-For is believed; None for all private addresses."""

    def __init__(self, networks: Iterable[str] | None = None) -> None:
        self._networks = (
            None
            if networks is None
            else tuple(ipaddress.ip_network(network, strict=False) for network in networks)
        )
        self._warned: set[str] = set()
        # Keys are short, and an entry never becomes wrong.
        self._client_of = lru_cache(maxsize=4096)(self._find_client)
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, peer: str | None) -> bool:
        """Return whether the peer of a connection (None for a UNIX socket) is a trusted proxy."""
        if peer is None:
            return True
        address = _parsed(peer)
        return address is not None and self._is_trusted(address)

    def client_of(self, peer: str | None, forwarded_for: str) -> str:
        """Return the address of the client of a request with this X-Forwarded-For header."""
        return self._client_of(peer, forwarded_for[-_MAX_HEADER_CHARS:])

    def _find_client(self, peer: str | None, forwarded_for: str) -> str:
        if not self.trusts(peer):
            self._warn(
                f"ignoring X-Forwarded-For from {peer}, which is not a trusted proxy; "
                "add reverse proxies to trusted_proxies"
            )
            return normalized_address(peer or LOCAL)
        client = _parsed(peer or LOCAL)
        entries = forwarded_for.split(",")
        while entries and (address := _parsed(entries.pop())) is not None:
            client = address
            if self._networks is None:
                if entries and _is_private(address):
                    self._warn(
                        f"the proxy {peer} forwards for {address}, which forwards for others; if "
                        f"{address} is a reverse proxy, add both to trusted_proxies"
                    )
                break
            if not self._is_trusted(address):
                break
        return str(client)

    def _is_trusted(self, address: Address) -> bool:
        if self._networks is None:
            return _is_private(address)
        return any(address in network for network in self._networks)

    def _warn(self, warning: str) -> None:
        if warning not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(warning)
            logger.warning("%s", warning)


@lru_cache(maxsize=4096)
def normalized_address(address: str) -> str:
    """Return an IPv4-mapped IPv6 address as IPv4, and any other address as it is."""
    parsed = _parsed(address)
    return address if parsed is None else str(parsed)


def _is_private(address: Address) -> bool:
    return address.is_private or (
        isinstance(address, ipaddress.IPv4Address) and address in _CARRIER_GRADE_NAT
    )


def _parsed(text: str) -> Address | None:
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
        return address.ipv4_mapped
    return address
