"""Limits on the work that is accepted: rate limits per requester, and admission per class of work.

Rules of admission:

- Each class of work has its own gate, so a flood of one class cannot starve the others. Light
  work has none.
- A gate limits how many requests run and how many wait. A request beyond both limits is rejected
  immediately with M_LIMIT_EXCEEDED, so a queue cannot grow without bound.
- Waiting requests enter in order of arrival; a new one never overtakes them. But of one user, only
  a few run or wait there at a time, so one user cannot fill a gate; the rest waits outside.
- Nothing that a peer can delay happens in a slot: the body was read before, and the response is
  sent afterwards. The exceptions are the gates of requests with events of other servers. Such
  events may need the keys of further servers, which need not respond, so a request that lacks keys
  enters PEER_KEYS first, and PEERS when they are there. PEERS includes what waits for other
  servers for another reason. Both have many slots, of which each server gets a few (OriginLimits).
- Only computing occupies a slot. The handler of a long poll enters the gate itself while it is
  computing, and never while it already holds a slot of that gate, as this could deadlock.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import attrs

from hs.apis.web.origin_limits import OriginLimits
from hs.core.errors import LimitExceeded
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.shares import ShareExceeded, Shares

T = TypeVar("T")


class WorkClass(enum.Enum):
    """Classes of work that must not starve each other."""

    LIGHT = "light"
    SEND = "send"
    READ = "read"
    KEYS = "keys"
    SYNC = "sync"
    HEAVY = "heavy"
    FEDERATION = "federation"
    PEERS = "peers"
    PEER_KEYS = "peer_keys"


class RateLimits(Protocol):
    """Counts requests and rejects those that exceed a rate."""

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Count one request of the rate class. Raises: LimitExceeded with retry_after_ms."""
        ...


class NoRateLimits:
    """RateLimits that allow everything."""

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Allow the request."""


class Freshness(Protocol):
    """Waits for replication from the other processes."""

    async def catch_up(self) -> None:
        """Wait until this process has received all that was committed before the call.

        Never raises, and gives up after a while.
        """
        ...


@attrs.frozen
class GateSize:
    """How many requests may run, and how many may wait, in one gate; and how many of one user."""

    running: int
    waiting: int
    of_user: int = 1000


class Gate:
    """Slots with a bounded queue, as an async context manager.

    Raises: LimitExceeded on entry if the queue is full.
    """

    def __init__(self, size: GateSize) -> None:
        self._shares: Shares[UserID] = Shares(running=size.of_user, waiting=size.waiting // 2)
        self._slots: Shares[None] = Shares(running=size.running, waiting=size.waiting)

    @property
    def running(self) -> int:
        """Number of occupied slots."""
        return self._slots.taken(None)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return self._slots.waiting(None)

    async def run(self, requester: Requester | None, handle: Callable[[], Awaitable[T]]) -> T:
        """Run a function in a slot, within the share of the user. Raises: LimitExceeded."""
        # An application service acts for many users, which may all be one.
        if requester is None or requester.appservice_id is not None:
            async with self:
                return await handle()
        async with self.of_user(requester.user_id):
            return await handle()

    def of_user(self, user_id: UserID) -> "UserSlot":
        """Return a context manager like the gate itself, within the share of a user."""
        return UserSlot(self._slots, self._shares, user_id)

    async def __aenter__(self) -> None:
        await _enter(self._slots)

    async def __aexit__(self, *_: object) -> None:
        self._slots.release(None)


class UserSlot:
    """A slot of a gate for one user, as an async context manager. Raises: LimitExceeded."""

    __slots__ = ("_shares", "_slots", "_user_id")

    def __init__(self, slots: Shares[None], shares: Shares[UserID], user_id: UserID) -> None:
        self._slots = slots
        self._shares = shares
        self._user_id = user_id

    async def __aenter__(self) -> None:
        try:
            await self._shares.acquire(self._user_id)
        except ShareExceeded:
            raise LimitExceeded("Too many requests at once", retry_after_ms=2000) from None
        try:
            await _enter(self._slots)
        except BaseException:
            self._shares.release(self._user_id)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._slots.release(None)
        self._shares.release(self._user_id)


async def _enter(slots: Shares[None]) -> None:
    try:
        await slots.acquire(None)
    except ShareExceeded:
        raise LimitExceeded("The server is overloaded", retry_after_ms=2000) from None


DEFAULT_GATES: Mapping[WorkClass, GateSize] = {
    WorkClass.SEND: GateSize(running=100, waiting=2000, of_user=20),
    WorkClass.READ: GateSize(running=50, waiting=2000, of_user=6),
    WorkClass.KEYS: GateSize(running=20, waiting=1000, of_user=3),
    WorkClass.SYNC: GateSize(running=50, waiting=5000, of_user=4),
    WorkClass.HEAVY: GateSize(running=8, waiting=500, of_user=2),
    WorkClass.FEDERATION: GateSize(running=50, waiting=1000),
    WorkClass.PEERS: GateSize(running=300, waiting=1000),
    WorkClass.PEER_KEYS: GateSize(running=300, waiting=1000),
}


class Admission:
    """The gates of one process, and the limits of other servers."""

    def __init__(
        self,
        sizes: Mapping[WorkClass, GateSize] = DEFAULT_GATES,
        origins: OriginLimits | None = None,
    ) -> None:
        self.origins = origins or OriginLimits()
        self.gates = {work: Gate(size) for work, size in sizes.items()}

    def gate(self, work: WorkClass) -> Gate | None:
        """Return the gate of a class of work; None for light work."""
        return self.gates.get(work)
