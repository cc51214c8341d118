"""How many connections each source of clients has open.

A source is an IPv4 address or an IPv6 network of one customer. A connection of a trusted proxy does
not count; instead, each request that it forwards counts for the source of its client, as long as
the request runs.
"""

import ipaddress
import logging
from collections.abc import Iterable
from functools import lru_cache

from hs.lib.client_sources import source_of

logger = logging.getLogger(__name__)

_MAX_WARNINGS = 100


class ConnectionCounts:
    """The open connections by source; sources in `unlimited` networks are not counted."""

    def __init__(self, maximum: int, unlimited: Iterable[str] = ()) -> None:
        self._maximum = maximum
        self._unlimited = [ipaddress.ip_network(text, strict=False) for text in unlimited]
        self._open: dict[str, int] = {}
        self._warned: set[str] = set()
        self.counted_source = lru_cache(maxsize=4096)(self._counted_source)

    def _counted_source(self, address: str) -> str | None:
        """Return the source of an address; None if it is not counted."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return address
        if any(parsed in network for network in self._unlimited):
            return None
        return source_of(address)

    def enter(self, source: str) -> bool:
        """Count a connection or forwarded request, unless the source has too many."""
        count = self._open.get(source, 0)
        if self._maximum and count >= self._maximum:
            if source not in self._warned and len(self._warned) < _MAX_WARNINGS:
                self._warned.add(source)
                logger.warning(
                    "%s has %d connections, closing any further ones; if it is a reverse proxy, "
                    "set x_forwarded and trusted_proxies",
                    source,
                    count,
                )
            return False
        self._open[source] = count + 1
        return True

    def leave(self, source: str) -> None:
        """Count the end of a connection or request."""
        self._open[source] -= 1
        if not self._open[source]:
            del self._open[source]
