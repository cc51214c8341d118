"""Positions of pushers in the queue of notifications, written in batches.

A pusher sends its next notification only after the position of the one before is stored. So after
a crash at most the notification that was being sent is sent again.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from hs.lib.batcher import Batcher
from hs.storage.database import Database, DatabaseError
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey, Throttle

MAX_BATCH: Final = 1000
MAX_WAITING: Final = 1_000_000  # one for each pusher that sends
CLEANUP_PERIOD_S: Final = 10.0
CLEANUP_USERS: Final = 500
RETRY_S: Final = 1.0

log = logging.getLogger(__name__)

_Move = tuple[PusherKey, int]


class PusherPositions:
    """Writes positions, and deletes notifications that all pushers of a user are done with."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._moved: set[str] = set()
        self._scope = trio.CancelScope()
        self._batcher: Batcher[_Move, None] = Batcher(
            self._write, max_batch=MAX_BATCH, max_waiting=MAX_WAITING
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `stop`, also for pushers that finish a notification while cancelled."""
        task_status.started()
        # A caller that was cancelled while it started this will never call `stop`.
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True) as self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._batcher.serve)
                await self._delete_sent_for_ever()

    def stop(self) -> None:
        """End `run`."""
        self._scope.cancel()

    async def move(self, key: PusherKey, position: int) -> None:
        """Store that a pusher is done up to a position; retry until the database has it."""
        await _retry(key, partial(self._batcher.submit, (key, position)))

    async def record_email(self, key: PusherKey, position: int, rooms: Sequence[Throttle]) -> None:
        """Store the position after an e-mail, and its rooms; retry until the database has it."""
        write = partial(self._database.write, storage.record_email, key, position, rooms)
        await _retry(key, write)
        self._moved.add(key.user_id)

    def note_moved(self, user_id: str) -> None:
        """Note that notifications of a user may now be done with by all pushers."""
        self._moved.add(user_id)

    async def _write(self, moves: list[_Move]) -> Sequence[None]:
        await self._database.write(
            storage.set_positions, [(*key, position) for key, position in moves]
        )
        self._moved.update(key.user_id for key, _ in moves)
        return [None] * len(moves)

    async def _delete_sent_for_ever(self) -> None:
        while True:
            await trio.sleep(CLEANUP_PERIOD_S)
            moved, self._moved = sorted(self._moved), set()
            try:
                for start in range(0, len(moved), CLEANUP_USERS):
                    users = moved[start : start + CLEANUP_USERS]
                    await self._database.write(storage.delete_sent, users)
            except DatabaseError as error:
                log.warning(
                    "sent notifications could not be deleted, retrying in %.0f s: %s",
                    CLEANUP_PERIOD_S,
                    error,
                )
                self._moved.update(moved)


async def _retry(key: PusherKey, store: Callable[[], Awaitable[Any]]) -> None:
    # If the pusher went on without, it would send notifications twice after a restart.
    while True:
        try:
            await store()
        except DatabaseError as error:
            log.warning(
                "position of the pusher of %s could not be stored, retrying in %.0f s: %s",
                key.user_id,
                RETRY_S,
                error,
            )
            await trio.sleep(RETRY_S)
        else:
            return
