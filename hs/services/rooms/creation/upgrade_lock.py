"""Upgrades of one room happen one after the other, by whichever process.

A lease holds other processes back. It ends with its process, so a room whose upgrade was broken
off can be upgraded by the next who asks.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, TypeVarTuple

import attrs

from hs.core.errors import MatrixError
from hs.core.ids import RoomID
from hs.lib.keyed_lock import KeyedLock
from hs.repl.leases import Leases, LeaseTaken

WAIT_S: Final = 60.0
"""Longer than a process that was killed keeps its leases."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@attrs.frozen(eq=False)
class UpgradeTurns:
    """Lets one at a time upgrade a room."""

    _leases: Leases
    # To a lease all tasks of a process are the same.
    _here: KeyedLock[RoomID] = attrs.field(factory=KeyedLock, init=False)

    async def run(self, room_id: RoomID, afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Call `afn(*args)` when it is its turn.

        Raises: MatrixError 503, if others take too long; and those of `afn`.
        """
        async with self._here.hold(room_id):
            try:
                async with self._leases.hold(f"upgrade:{room_id}", WAIT_S):
                    done = await _refusal_or_result(afn, *args)
            except LeaseTaken:
                told = "The room is being upgraded; try again"
                raise MatrixError("M_UNKNOWN", 503, told) from None
        if isinstance(done, MatrixError):
            raise done
        return done


async def _refusal_or_result(afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T | MatrixError:
    # What is raised while a lease is held comes out in a group.
    try:
        return await afn(*args)
    except MatrixError as error:
        return error
