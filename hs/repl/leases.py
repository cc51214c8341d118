"""Leases: what only one process may do, or be called, at a time.

They are rows in the database. A holder that cannot renew in time stops before another may take
over; the hosts' clocks may differ by no more than SKEW_MS.
"""

import logging
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import trio

from hs.storage import leases
from hs.storage.database import Database, DatabaseError

TTL_MS = 30_000
SKEW_MS = 5_000
RENEW_S = 8.0
RETRY_S = 1.0
GIVE_BACK_S = 2.0

_HOLDER = re.compile(r"[^/]*@(?P<place>[^/]*:\d*):(?P<pid>\d+):(?P<started>\d*)/\w+")

log = logging.getLogger(__name__)


class LeaseTaken(Exception):
    """Another live process holds the lease."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"{name} is held by another live process ({holder})")
        self.name = name
        self.holder = holder


class LeaseLost(Exception):
    """The lease could not be renewed in time, so what it stands for must stop."""


@attrs.frozen
class Lease:
    """A lease held; `fence` is greater than that of every holder before."""

    name: str
    holder: str
    fence: int


def holder_name(instance: str) -> str:
    """Give a name for one life of a process, unlike that of any other.

    It tells place, process and the process's start, so that others there see when it is dead.
    """
    pid = os.getpid()
    life = f"{_place()}:{pid}:{_started_at(pid)}"
    return f"{instance}@{life}/{secrets.token_hex(6)}"


def is_alive(holder: str) -> bool | None:
    """Tell whether a holder still runs; None when that cannot be seen from here."""
    match = _HOLDER.fullmatch(holder)
    if match is None or match["place"] != _place() or not match["started"]:
        return None
    return _started_at(int(match["pid"])) == match["started"]


def _place() -> str:
    """Name where numbers of processes mean the same: containers may share a host's name."""
    try:
        namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}:{namespace}"


def _started_at(pid: int) -> str:
    """Give when a process began, in ticks since the host's start; empty when it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    # Ended, but nobody has asked yet how.
    return "" if state in ("Z", "X") else fields[18]


def instance_lease(instance: str) -> str:
    """Name the lease of an instance's own name."""
    return f"instance:{instance}"


@attrs.define(eq=False)
class Leases:
    """Takes, renews and gives back leases for one life of a process; `held` are its own now."""

    _database: Database
    _holder: str
    _now_ms: Callable[[], int]
    held: set[str] = attrs.field(factory=set, init=False)

    async def try_take(self, name: str) -> Lease | None:
        """Take a lease if it is free."""
        now_ms = self._now_ms()
        fence = await self._database.write(leases.take, name, self._holder, now_ms + TTL_MS, now_ms)
        return Lease(name, self._holder, fence) if fence is not None else None

    def hold(self, name: str, wait_s: float = 0.0) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease while the block runs, waiting up to `wait_s` for another holder to end.

        Raises: LeaseTaken; LeaseLost, in a group, which also cancels the block.
        """
        return self._hold(name, wait_s, wait_s, self._keep)

    def hold_fenced(
        self, name: str, wait_s: float, living_wait_s: float
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold as `hold` does, but without an end while the database is away.

        For what can do no harm without the database, which refuses it once another has the lease.
        Another that is seen to run is waited for up to `living_wait_s`.
        """
        return self._hold(name, wait_s, living_wait_s, self._keep_fenced)

    @asynccontextmanager
    async def _hold(
        self,
        name: str,
        wait_s: float,
        living_wait_s: float,
        keep: Callable[[Lease], Awaitable[None]],
    ) -> AsyncIterator[Lease]:
        lease = await self._take(name, wait_s, living_wait_s)
        try:
            self.held.add(name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep, lease)
                yield lease
                nursery.cancel_scope.cancel()
        finally:
            self.held.discard(name)
            await self._give_back(lease)

    async def _take(self, name: str, wait_s: float, living_wait_s: float) -> Lease:
        began = trio.current_time()
        while True:
            lease = await self.try_take(name)
            if lease is not None:
                return lease
            row = await self._database.read(leases.read, name)
            holder = row.holder if row is not None else ""
            lives = is_alive(holder)
            if lives is False:
                # Killed here: nobody will renew, so there is nothing to wait for.
                await self._database.write(leases.give_back, name, holder)
                continue
            left_s = began + (living_wait_s if lives else wait_s) - trio.current_time()
            if left_s <= 0:
                raise LeaseTaken(name, holder)
            await trio.sleep(min(RETRY_S, left_s))

    async def _keep(self, lease: Lease) -> None:
        # Measured on our own clock from before the renewal was asked for.
        sure_until = trio.current_time() + (TTL_MS - SKEW_MS) / 1000
        pause_s = RENEW_S
        while True:
            await trio.sleep(pause_s)
            asked = trio.current_time()
            left_s = sure_until - asked
            try:
                with trio.fail_after(max(left_s, 0.0)):
                    kept = await self._renew(lease)
            except (DatabaseError, trio.TooSlowError) as error:
                if left_s <= RETRY_S:
                    raise LeaseLost(f"{lease.name} could not be renewed in time") from error
                log.warning("cannot renew the lease %s yet: %s", lease.name, error)
                pause_s = RETRY_S
                continue
            if not kept:
                raise LeaseLost(f"{lease.name} was taken over by another process")
            sure_until = asked + (TTL_MS - SKEW_MS) / 1000
            pause_s = RENEW_S

    async def _keep_fenced(self, lease: Lease) -> None:
        pause_s = RENEW_S
        while True:
            await trio.sleep(pause_s)
            pause_s = RENEW_S
            try:
                with trio.fail_after(TTL_MS / 1000):
                    kept = await self._renew(lease)
            except (DatabaseError, trio.TooSlowError) as error:
                log.warning("cannot renew the lease %s yet: %s", lease.name, error)
                pause_s = RETRY_S
                continue
            if not kept:
                raise LeaseLost(f"{lease.name} was taken over by another process")

    async def _renew(self, lease: Lease) -> bool:
        expires_ms = self._now_ms() + TTL_MS
        return await self._database.write(
            leases.renew, lease.name, lease.holder, lease.fence, expires_ms
        )

    async def _give_back(self, lease: Lease) -> None:
        with trio.move_on_after(GIVE_BACK_S, shield=True):
            try:
                await self._database.write(leases.give_back, lease.name, lease.holder)
            except DatabaseError as error:
                log.warning("cannot give back the lease %s: %s", lease.name, error)
