"""How much work is let in: rate limits per requester, and admission by class of work.

Admission bounds how many requests of one class run at once and how many wait for their turn, so
that a flood of one class never starves the others. What only waits (an idle long-poll) holds no
slot; such handlers enter the gate themselves around their computing.
"""

import enum
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

import attrs
import trio

from hs.core.errors import LimitExceeded
from hs.core.requester import Requester


class Work(enum.Enum):
    """Classes of work that must not starve each other."""

    LIGHT = "light"
    SEND = "send"
    SYNC = "sync"
    HEAVY = "heavy"
    FEDERATION = "federation"


class RateLimits(Protocol):
    """Counts requests and refuses the ones too many."""

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Count one request of the rate class. Raises: LimitExceeded with retry_after_ms."""
        ...


class NoRateLimits:
    """Lets everything through."""

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Allow."""


class Freshness(Protocol):
    """Brings what other processes have written to this one."""

    async def see_all(self) -> None:
        """Wait until this process knows what was committed before the call; never raises."""
        ...


@attrs.frozen
class GateSize:
    """Bounds of one gate: how many run, how many may wait."""

    running: int
    waiting: int


class Gate:
    """Bounded concurrency with a bounded queue; entering is cheap while there is room."""

    def __init__(self, size: GateSize) -> None:
        self._size = size
        self._slots = trio.Semaphore(size.running)

    @property
    def running(self) -> int:
        """How many are let in."""
        return self._size.running - self._slots.value

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._slots.statistics().tasks_waiting

    async def __aenter__(self) -> None:
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            if self.waiting >= self._size.waiting:
                raise LimitExceeded("The server is busy", retry_after_ms=2000) from None
            await self._slots.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._slots.release()


DEFAULT_GATES: Mapping[Work, GateSize] = {
    Work.SEND: GateSize(running=100, waiting=2000),
    Work.SYNC: GateSize(running=50, waiting=5000),
    Work.HEAVY: GateSize(running=8, waiting=500),
    Work.FEDERATION: GateSize(running=50, waiting=1000),
}


class Admission:
    """The gates of one process."""

    def __init__(self, sizes: Mapping[Work, GateSize] = DEFAULT_GATES) -> None:
        self.gates = {work: Gate(size) for work, size in sizes.items()}

    def gate(self, work: Work) -> Gate | None:
        """Give the gate of a class; light work has none."""
        return self.gates.get(work)
