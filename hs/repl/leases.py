"""Leases: rows in the database that say which process may do something, and until when.

Rules:

- A lease has one holder at a time, which renews it every RENEW_S. Another process may take it
  TTL_MS after the last renewal. A holder that has not managed to renew it stops SKEW_MS earlier
  (LeaseLost), so the clocks of the hosts may differ by that much.
- The first lease of a process that is due renews all of them, with one statement. So does a unit
  of work that the process runs anyway, and more often (`renew_after`); then none becomes due.
- The holder measures the time with its own monotonic clock, from before it requested the renewal,
  because the reply may be late.
- `fence` grows with every new holder. A fenced lease (`hold_fenced`) is for work that the database
  itself refuses to all but the latest holder, so its holder may go on while the database is away.
- The name of a holder contains its host, process and start time. Another process on the same host
  sees when that process is dead and need not wait for the lease to expire.
- A fenced lease that a running process holds is refused soon: two processes have one name. Its
  holder runs if its host says so or if it answers calls, and has not announced that it ends.
"""

import logging
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import attrs
import trio

from hs.storage import leases
from hs.storage.database import Database, DatabaseError, Unit

P = ParamSpec("P")
T = TypeVar("T")

# A candidate that hangs keeps the row of a lease locked until the database ends its transaction,
# after five seconds. The retry after that still comes in time.
TTL_MS = 10_000
SKEW_MS = 2_000
VALID_S = (TTL_MS - SKEW_MS) / 1000
RENEW_S = 2.5
LEAD_S = 0.5
ATTEMPT_S = 3.0  # for one attempt to renew
RETRY_S = 1.0
GIVE_BACK_S = 2.0
LAST_WORK_S = 1.5
"""How long a duty may go on when it is cancelled, perhaps because its lease was lost.

Less than SKEW_MS: then another process may do its work.
"""

_HOLDER = re.compile(r"[^/]*@(?P<namespace>[^/]*:\d*):(?P<pid>\d+):(?P<started>\d*)/\w+")

log = logging.getLogger(__name__)


class LeaseTaken(Exception):
    """Another live process holds the lease."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"lease {name} is held by another live process ({holder})")
        self.name = name
        self.holder = holder


class LeaseLost(Exception):
    """The lease could not be renewed in time, so its holder must stop."""


@attrs.frozen
class Lease:
    """A lease that is held; `fence` is greater than that of every earlier holder."""

    name: str
    holder: str
    fence: int


def holder_name(instance: str) -> str:
    """Return a unique name for the present life of this process.

    It contains the host, the process ID and the start time of the process; see is_alive.
    """
    pid = os.getpid()
    life = f"{_pid_namespace()}:{pid}:{_started_at(pid)}"
    return f"{instance}@{life}/{secrets.token_hex(6)}"


def is_alive(holder: str) -> bool | None:
    """Return whether a holder is running; None if it is on another host or in another container."""
    match = _HOLDER.fullmatch(holder)
    if match is None or match["namespace"] != _pid_namespace() or not match["started"]:
        return None
    return _started_at(int(match["pid"])) == match["started"]


def _pid_namespace() -> str:
    """Return a name for the space of process IDs: containers may share the name of the host."""
    try:
        namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}:{namespace}"


def _started_at(pid: int) -> str:
    """Return a process's start time in ticks since the host booted; empty if it is not running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    # A zombie has ended; its parent has not read the exit status yet.
    return "" if state in ("Z", "X") else fields[18]


async def _nobody_answers() -> bool:
    await trio.lowlevel.checkpoint()
    return False


@attrs.frozen
class _Patience:
    """How long to wait for a holder that runs, and for another one; `answers` asks it."""

    wait_s: float
    living_wait_s: float
    answers: Callable[[], Awaitable[bool]] = _nobody_answers

    @property
    def is_equal(self) -> bool:
        """Whether it makes no difference what the holder does."""
        return self.wait_s == self.living_wait_s


@attrs.define(eq=False)
class _Renewal:
    """A lease that is held, and when it is to be renewed."""

    lease: Lease
    due_at: float
    valid_until: float
    is_lost: bool = False
    _waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def wait_due(self) -> None:
        """Wait until the lease is to be renewed; a renewal meanwhile prolongs the waiting."""
        with trio.CancelScope(deadline=self.due_at) as self._waiting:
            await trio.sleep_forever()

    def note(self, requested_at: float, fence: int | None) -> None:
        """Note the reply to a renewal: the fence of the lease, None if another holder has it."""
        if fence == self.lease.fence:
            # This may be the late reply to an earlier renewal, which has shortened nothing.
            self.due_at = max(self.due_at, requested_at + RENEW_S + LEAD_S)
            self.valid_until = max(self.valid_until, requested_at + VALID_S)
            self._waiting.deadline = self.due_at
        else:
            self.is_lost = True
            self._waiting.deadline = requested_at

    def postpone(self, error: BaseException) -> None:
        """Try again soon, after a failure."""
        self.due_at = trio.current_time() + RETRY_S
        log.warning(
            "cannot renew lease %s, retrying in %.0f s: %s", self.lease.name, RETRY_S, error
        )


def instance_lease(instance: str) -> str:
    """Return the name of the lease that an instance holds on its own name."""
    return f"instance:{instance}"


def _mark_of_end(name: str) -> str:
    return f"ending:{name}"


def _note(renewals: Sequence[_Renewal], requested_at: float, fences: Mapping[str, int]) -> None:
    for renewal in renewals:
        renewal.note(requested_at, fences.get(renewal.lease.name))


@attrs.define(eq=False)
class Leases:
    """The leases of one life of a process."""

    _database: Database
    _holder: str
    _now_ms: Callable[[], int]
    _renewals: list[_Renewal] = attrs.field(factory=list, init=False)
    _renewing: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    @property
    def held(self) -> set[str]:
        """The names of the leases that this process has now."""
        return {renewal.lease.name for renewal in self._renewals}

    def has_expired(self, name: str) -> bool:
        """Return whether another process may have taken a lease since this one renewed it."""
        now = trio.current_time()
        return any(
            renewal.lease.name == name and (renewal.is_lost or now >= renewal.valid_until)
            for renewal in self._renewals
        )

    async def try_take(self, name: str) -> Lease | None:
        """Take a lease if it is free, else return None; for renewing it, see `hold`."""
        now_ms = self._now_ms()
        fence = await self._database.write(leases.take, name, self._holder, now_ms + TTL_MS, now_ms)
        return Lease(name, self._holder, fence) if fence is not None else None

    async def renew_after(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit as `write_idempotent` of the database does, and renew all leases with it."""
        requested_at = trio.current_time()
        renewals = list(self._renewals)
        if not renewals:
            return await self._database.write_idempotent(unit, *args, **kwargs)
        result, fences = await self._database.write_idempotent(
            leases.renew_after, self._arguments(renewals), unit, *args, **kwargs
        )
        _note(renewals, requested_at, fences)
        return result

    def hold(self, name: str, wait_s: float = 0.0) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease within a `with` block, waiting up to `wait_s` for another holder.

        Raises: LeaseTaken; LeaseLost, in a group, which also cancels the block.
        """
        return self._hold(name, _Patience(wait_s, wait_s), self._keep)

    def hold_fenced(
        self,
        name: str,
        wait_s: float,
        living_wait_s: float,
        answers: Callable[[], Awaitable[bool]] = _nobody_answers,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease as `hold` does, but do not stop while the database is away.

        It is for work that does no harm without the database, and that the database refuses when
        another process has taken the lease. If the other holder runs, this waits for it up to
        `living_wait_s` instead of `wait_s`; `answers` returns whether it does, for one on another
        host.

        Raises: LeaseTaken; LeaseLost, in a group, which also cancels the block.
        """
        return self._hold(name, _Patience(wait_s, living_wait_s, answers), self._keep_fenced)

    async def announce_end(self, name: str) -> None:
        """Announce, to processes that wait for a lease, that this one is about to give it back."""
        with trio.move_on_after(GIVE_BACK_S):
            try:
                await self._database.write(leases.mark, _mark_of_end(name), self._holder)
            except DatabaseError as error:
                log.warning("cannot announce the end of lease %s: %s", name, error)

    @asynccontextmanager
    async def _hold(
        self,
        name: str,
        patience: _Patience,
        keep: Callable[[_Renewal], Awaitable[None]],
    ) -> AsyncIterator[Lease]:
        renewal = await self._take(name, patience)
        lease = renewal.lease
        self._renewals.append(renewal)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep, renewal)
                yield lease
                nursery.cancel_scope.cancel()
        finally:
            self._renewals.remove(renewal)
            await self._give_back(lease)

    async def _take(self, name: str, patience: _Patience) -> _Renewal:
        began = trio.current_time()
        waited_for = ""
        while True:
            requested_at = trio.current_time()
            lease = await self.try_take(name)
            if lease is not None:
                return _Renewal(lease, requested_at + RENEW_S, requested_at + VALID_S)
            row = await self._database.read(leases.read, name)
            holder = row.holder if row is not None else ""
            if is_alive(holder) is False:
                # It was killed on this host and will not renew, so do not wait for the expiry.
                await self._database.write(leases.release, name, holder)
                continue
            limit_s = patience.wait_s
            if not patience.is_equal and await self._runs(name, holder, patience):
                limit_s = patience.living_wait_s
            left_s = began + limit_s - trio.current_time()
            if left_s <= 0:
                raise LeaseTaken(name, holder)
            if holder != waited_for and not patience.is_equal:
                waited_for = holder
                log.warning("%s has %s, waiting up to %.0f s for its end", holder, name, left_s)
            await trio.sleep(min(RETRY_S, left_s))

    async def _runs(self, name: str, holder: str, patience: _Patience) -> bool:
        """Return whether a holder runs and is not about to end."""
        mark = await self._database.read(leases.read, _mark_of_end(name))
        if mark is not None and mark.holder == holder:
            return False
        return bool(is_alive(holder)) or await patience.answers()

    async def _keep(self, renewal: _Renewal) -> None:
        while True:
            await renewal.wait_due()
            left_s = renewal.valid_until - trio.current_time()
            try:
                with trio.fail_after(min(max(left_s, 0.0), ATTEMPT_S)):
                    await self._renew(renewal)
            except (DatabaseError, trio.TooSlowError) as error:
                if renewal.valid_until - trio.current_time() <= RETRY_S:
                    name = renewal.lease.name
                    raise LeaseLost(f"lease {name} could not be renewed in time") from error
                renewal.postpone(error)

    async def _keep_fenced(self, renewal: _Renewal) -> None:
        while True:
            await renewal.wait_due()
            try:
                with trio.fail_after(ATTEMPT_S):
                    await self._renew(renewal)
            except (DatabaseError, trio.TooSlowError) as error:
                renewal.postpone(error)

    async def _renew(self, due: _Renewal) -> None:
        """Renew all leases of this process, unless another task has just done that.

        Raises: LeaseLost, if another process has this one.
        """
        async with self._renewing:
            requested_at = trio.current_time()
            if due.due_at <= requested_at and not due.is_lost:
                renewals = list(self._renewals)
                fences = await self._database.write_idempotent(
                    leases.renew, *self._arguments(renewals)
                )
                _note(renewals, requested_at, fences)
                # So that this task renews the others again before they are due.
                due.due_at -= LEAD_S
        if due.is_lost:
            raise LeaseLost(f"lease {due.lease.name} was taken over by another process")

    def _arguments(self, renewals: Sequence[_Renewal]) -> leases.Renewal:
        names = [renewal.lease.name for renewal in renewals]
        return self._holder, names, self._now_ms() + TTL_MS

    async def _give_back(self, lease: Lease) -> None:
        with trio.move_on_after(GIVE_BACK_S, shield=True):
            try:
                await self._database.write(leases.release, lease.name, lease.holder)
            except DatabaseError as error:
                log.warning("cannot give back lease %s, it expires: %s", lease.name, error)
