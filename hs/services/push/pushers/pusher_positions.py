"""How far pushers have come: written in batches, before the next notification is sent."""

import logging
from collections.abc import Sequence
from typing import Final

import trio

from hs.lib.batcher import Batcher
from hs.storage.database import Database, DatabaseError
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey

MAX_BATCH: Final = 1000
MAX_WAITING: Final = 1_000_000  # one for each pusher that sends
PRUNE_EVERY_S: Final = 10.0
PRUNE_USERS: Final = 500
AGAIN_S: Final = 1.0

log = logging.getLogger(__name__)

_Move = tuple[PusherKey, int]


class Positions:
    """Writes positions, and forgets what all pushers of a user are past."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._moved: set[str] = set()
        self._scope = trio.CancelScope()
        self._batcher: Batcher[_Move, None] = Batcher(
            self._write, max_batch=MAX_BATCH, max_waiting=MAX_WAITING
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `stop`, also for those who finish while they are cancelled."""
        task_status.started()
        # Who gave up starting this will never call `stop`.
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True) as self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._batcher.serve)
                await self._prune_for_ever()

    def stop(self) -> None:
        """End `run`."""
        self._scope.cancel()

    async def move(self, key: PusherKey, position: int) -> None:
        """Write that all up to a notification is done; on return it is in the database.

        While the database is away this waits: to send on without would be to send twice later.
        """
        while True:
            try:
                await self._batcher.ask((key, position))
            except DatabaseError as error:
                log.warning("cannot note what was pushed yet: %s", error)
                await trio.sleep(AGAIN_S)
            else:
                return

    def note_moved(self, user_id: str) -> None:
        """Note that something in a user's queue may have been for the last one."""
        self._moved.add(user_id)

    async def _write(self, moves: list[_Move]) -> Sequence[None]:
        await self._database.write(storage.move_on, [(*key, position) for key, position in moves])
        self._moved.update(key.user_id for key, _ in moves)
        return [None] * len(moves)

    async def _prune_for_ever(self) -> None:
        while True:
            await trio.sleep(PRUNE_EVERY_S)
            moved, self._moved = sorted(self._moved), set()
            try:
                for start in range(0, len(moved), PRUNE_USERS):
                    users = moved[start : start + PRUNE_USERS]
                    await self._database.write(storage.prune_done, users)
            except DatabaseError as error:
                log.warning("cannot forget what was pushed yet: %s", error)
                self._moved.update(moved)
