"""The queue of notifications for users with pushers, filled by the evaluation.

Its rows are written in the transaction that writes how far the evaluation has come, and told on
the stream `pushes` after it: so each notification is in the queue exactly once, whatever ends.
"""

from collections.abc import Callable

import attrs
import orjson

from hs.core.ids import UserID
from hs.core.push.evaluate import Outcome
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import EventRow, PushesRow, QueuedPush
from hs.services.push.evaluation.users_with_pushers import PusherUsers
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import QueueRecord


@attrs.define(eq=False)
class PushQueue:
    """The writing end, in the process that evaluates."""

    _database: Database
    _writer: MemoryWriter[PushesRow]
    _now_ms: Callable[[], int]
    users: PusherUsers
    _last: int = 0

    async def load(self) -> None:
        """Learn who has pushers, and which numbers are used; once, before the first event."""
        await self.users.load()
        # Numbers are given here and not by the database: a batch that is written again, since
        # nobody knows whether it was, has the same ones.
        self._last = await self._database.read(storage.last_number)

    def make(
        self,
        stream_id: int,
        row: EventRow,
        thread_id: str,
        pushed: tuple[tuple[Outcome, tuple[UserID, ...]], ...],
    ) -> list[QueuedPush]:
        """Number the notifications of an event."""
        made = []
        for outcome, user_ids in pushed:
            self._last += 1
            actions = orjson.dumps(outcome.actions).decode()
            made.append(
                QueuedPush(
                    self._last,
                    stream_id,
                    row.room_id,
                    row.event_id,
                    thread_id,
                    actions,
                    self._now_ms(),
                    user_ids,
                )
            )
        return made

    def tell(self, pushes: list[QueuedPush]) -> None:
        """Tell those who send of what was written."""
        if pushes:
            self._writer.append_nowait([PushesRow(tuple(pushes))])


def records_of(pushes: list[QueuedPush]) -> list[QueueRecord]:
    """Give the rows of the table."""
    return [
        QueueRecord(
            user_id,
            one.seq,
            one.stream_id,
            one.room_id,
            one.event_id,
            one.thread_id,
            one.actions,
            one.added_ms,
        )
        for one in pushes
        for user_id in one.user_ids
    ]
