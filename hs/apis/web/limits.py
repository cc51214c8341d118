"""Limits on the work that is accepted: rate limits per requester, and admission per class of work.

Rules of admission:

- Each class of work has its own gate, so a flood of one class cannot starve the others. Light
  work has none.
- A gate limits how many requests run and how many wait. A request beyond both limits is rejected
  immediately with M_LIMIT_EXCEEDED, so a queue cannot grow without bound.
- Waiting requests enter in order of arrival; a new one never overtakes them. But of one user, only
  a few run or wait there at a time, so one user cannot fill a gate; the rest waits outside.
- Nothing that a peer can delay happens in a slot: the body was read before, the response is sent
  afterwards, and requests of clients leave the slot while they wait for other servers
  (hs/lib/fairness/held_slots.py). The exceptions are the gates of requests with events of others.
  Such events may need the keys of further servers, which need not respond, so a request that lacks
  keys enters PEER_KEYS first, and PEERS when they are there. PEERS includes what waits for other
  servers for another reason. Both have many slots, of which each server gets a few (OriginLimits).
- Requests that may make this server ask others (OTHERS, MEDIA) take no slot, but each user, or
  address without a user, has a share: slow servers cannot make one client keep much in memory, or
  take all connections to other servers.
- Only computing occupies a slot. The handler of a long poll enters the gate itself while it is
  computing, and never while it already holds a slot of that gate, as this could deadlock.
"""

import enum
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeVar

import attrs

from hs.apis.web.origin_limits import OriginLimits
from hs.core.errors import LimitExceeded
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.fairness.held_slots import HeldSlot
from hs.lib.fairness.shares import ShareExceeded, Shares

UNLIMITED: Final = sys.maxsize

T = TypeVar("T")


class WorkClass(enum.Enum):
    """Classes of work that must not starve each other."""

    LIGHT = "light"
    SEND = "send"
    READ = "read"
    KEYS = "keys"
    SYNC = "sync"
    HEAVY = "heavy"
    CREATE = "create"
    OTHERS = "others"
    MEDIA = "media"
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
    """How many requests may run, and how many may wait, in one gate; and how many of one user.

    With `is_left`, a request that waits for other servers leaves its slot.
    """

    running: int
    waiting: int
    of_user: int = 1000
    is_left: bool = True


class Gate:
    """Slots with a bounded queue, as an async context manager.

    Raises: LimitExceeded on entry if the queue is full.
    """

    def __init__(self, size: GateSize) -> None:
        self._is_left = size.is_left
        self._shares: Shares[str] = Shares(running=size.of_user, waiting=size.waiting // 2)
        self._slots: Shares[None] = Shares(running=size.running, waiting=size.waiting)

    @property
    def running(self) -> int:
        """Number of occupied slots."""
        return self._slots.taken(None)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return self._slots.waiting(None)

    async def run(self, sharer: str | None, handle: Callable[[], Awaitable[T]]) -> T:
        """Run a function in a slot, within the share of a user or address. Raises: LimitExceeded.

        The function leaves the slot while it waits for other servers, and keeps its share.
        """
        if sharer is not None:
            await _share(self._shares, sharer)
        try:
            if not self._is_left:
                async with self:
                    return await handle()
            await _enter(self._slots)
            held = HeldSlot(self._release, self._take_nowait)
            try:
                return await handle()
            finally:
                held.end()
        finally:
            if sharer is not None:
                self._shares.release(sharer)

    def of_user(self, user_id: UserID) -> "UserSlot":
        """Return a context manager like the gate itself, within the share of a user."""
        return UserSlot(self._slots, self._shares, user_id)

    async def __aenter__(self) -> None:
        await _enter(self._slots)

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self._slots.release(None)

    def _take_nowait(self) -> bool:
        return self._slots.acquire_nowait(None)


class UserSlot:
    """A slot of a gate for one user, as an async context manager. Raises: LimitExceeded."""

    __slots__ = ("_shares", "_slots", "_user_id")

    def __init__(self, slots: Shares[None], shares: Shares[str], user_id: UserID) -> None:
        self._slots = slots
        self._shares = shares
        self._user_id = user_id

    async def __aenter__(self) -> None:
        await _share(self._shares, self._user_id)
        try:
            await _enter(self._slots)
        except BaseException:
            self._shares.release(self._user_id)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._slots.release(None)
        self._shares.release(self._user_id)


async def _share(shares: Shares[str], sharer: str) -> None:
    try:
        await shares.acquire(sharer)
    except ShareExceeded:
        raise LimitExceeded("Too many requests at once", retry_after_ms=2000) from None


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
    WorkClass.CREATE: GateSize(running=20, waiting=100, of_user=2),
    WorkClass.OTHERS: GateSize(running=UNLIMITED, waiting=1000, of_user=20),
    WorkClass.MEDIA: GateSize(running=UNLIMITED, waiting=1000, of_user=20),
    WorkClass.FEDERATION: GateSize(running=50, waiting=1000, is_left=False),
    WorkClass.PEERS: GateSize(running=300, waiting=1000, is_left=False),
    WorkClass.PEER_KEYS: GateSize(running=300, waiting=1000, is_left=False),
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
