"""The queue of notifications for users with pushers, filled by the evaluation.

Its rows are written in the transaction that writes the position of the evaluation, and announced
on the stream `pushes` after it. So whenever the process ends, each notification is in the queue
exactly once.
"""

from collections.abc import Callable

import attrs
import orjson

from hs.core.streams import EventRow, PushesRow, QueuedPush
from hs.repl.memory_writer import MemoryWriter
from hs.services.push.evaluation.event_evaluation import Evaluation
from hs.services.push.evaluation.users_with_pushers import UsersWithPushers
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import QueueRecord


@attrs.define(eq=False)
class PushQueue:
    """The writing end of the queue, in the process that evaluates."""

    _database: Database
    _writer: MemoryWriter[PushesRow]
    _now_ms: Callable[[], int]
    users: UsersWithPushers
    _last_number: int = 0

    async def load(self) -> None:
        """Load the users with pushers and the last used number; once, before the first event."""
        await self.users.load()
        # Numbers are assigned here and not by the database: a batch that is written again, since
        # nobody knows whether the first attempt succeeded, has the same numbers.
        self._last_number = await self._database.read(storage.last_number)

    def number(self, stream_id: int, row: EventRow, evaluation: Evaluation) -> list[QueuedPush]:
        """Return the notifications of an event with their numbers in the queue."""
        pushes = []
        for outcome, user_ids in evaluation.pushed:
            self._last_number += 1
            pushes.append(
                QueuedPush(
                    seq=self._last_number,
                    stream_id=stream_id,
                    room_id=row.room_id,
                    event_id=row.event_id,
                    thread_id=evaluation.thread_id,
                    actions=orjson.dumps(outcome.actions).decode(),
                    added_ms=self._now_ms(),
                    user_ids=user_ids,
                )
            )
        return pushes

    def announce(self, pushes: list[QueuedPush]) -> None:
        """Announce committed notifications to the processes that send them."""
        if pushes:
            self._writer.append_nowait([PushesRow(tuple(pushes))])


def record_of(push: QueuedPush, user_id: str) -> QueueRecord:
    """Return a user's row of the table for a notification."""
    return QueueRecord(
        user_id=user_id,
        seq=push.seq,
        stream_id=push.stream_id,
        room_id=push.room_id,
        event_id=push.event_id,
        thread_id=push.thread_id,
        actions=push.actions,
        added_ms=push.added_ms,
    )
