"""SRV records: where a service of a domain is served (RFC 2782)."""

import importlib
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs


@attrs.frozen
class SrvRecord:
    """Where a service is served; `host` is without its final dot, "" means nowhere."""

    priority: int
    weight: int
    port: int
    host: str


@attrs.frozen
class SrvAnswer:
    """The records of a name, none if it has none, and how long they may be cached."""

    records: tuple[SrvRecord, ...]
    ttl_s: float


class SrvUnavailable(Exception):
    """The look-up failed: whether there are records is unknown."""


class SrvLookup(Protocol):
    """Looks up SRV records."""

    async def look_up(self, name: str) -> SrvAnswer:
        """Return the records of a name. Raises: SrvUnavailable."""
        ...


class SystemSrvLookup:
    """Asks the name servers of the system.

    The DNS library is loaded at the first look-up: many servers never make one, and commands that
    only read settings should not wait for it.
    """

    def __init__(self) -> None:
        self._resolver: SrvLookup | None = None

    async def look_up(self, name: str) -> SrvAnswer:
        """Return the records of a name. Raises: SrvUnavailable."""
        if self._resolver is None:
            resolver: SrvLookup = importlib.import_module("hs.lib.dns_resolver").DnsSrvLookup()
            self._resolver = resolver
        return await self._resolver.look_up(name)


def in_order_of_use(
    records: Sequence[SrvRecord], chance: Callable[[], float] = random.random
) -> list[SrvRecord]:
    """Return records in the order in which they are to be tried: by priority, then at random.

    `chance` returns random numbers in [0, 1). Records of greater weight are more likely to be
    first.
    """
    # A random number to the power of 1/weight is largest for each record with a probability in
    # proportion to its weight. Weight 0 means a very small chance.
    keyed = [
        (record.priority, -(chance() ** (1 / max(record.weight, 0.01))), number)
        for number, record in enumerate(records)
    ]
    return [records[number] for _, _, number in sorted(keyed)]
