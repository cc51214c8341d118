"""The lock that lets one task of one process at a time upgrade a room.

Rules:

- A lease in the database excludes other processes; a lock in memory excludes other tasks of this
  process, which the lease cannot tell apart. The lock is taken first, so a process competes for the
  lease at most once.
- A lease expires after its process has died. WAIT_S is longer than that, so a request that waits
  for a dead process gets its turn, and can finish the upgrade that was interrupted.
- The lease can be lost while the upgrade runs, if the database is not reachable for long. The
  upgrade is cancelled then.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, TypeVarTuple

import attrs

from hs.core.errors import MatrixError
from hs.core.ids import RoomID
from hs.lib.keyed_lock import KeyedLock
from hs.repl.leases import Leases, LeaseTaken

WAIT_S: Final = 60.0
"""Longer than the leases of a killed process last."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@attrs.frozen(eq=False)
class UpgradeLock:
    """Serializes the upgrades of each room, across processes."""

    _leases: Leases
    # Tasks of this process, which share its leases.
    _locks: KeyedLock[RoomID] = attrs.field(factory=KeyedLock, init=False)

    async def run(self, room_id: RoomID, afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Call `afn(*args)` while holding the lock of the room.

        Raises: MatrixError 503, if the lock is not free in time; and those of `afn`.
        """
        async with self._locks.hold(room_id):
            try:
                async with self._leases.hold(f"upgrade:{room_id}", WAIT_S):
                    result = await _result_or_error(afn, *args)
            except LeaseTaken:
                message = "The room is being upgraded by another request; try again"
                raise MatrixError("M_UNKNOWN", 503, message) from None
        if isinstance(result, MatrixError):
            raise result
        return result


async def _result_or_error(afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T | MatrixError:
    # An exception raised while a lease is held would arrive in an exception group.
    try:
        return await afn(*args)
    except MatrixError as error:
        return error
