"""Evaluation of one row of the events stream: notifications, redactions and implicit reads."""

import logging
from typing import Final

import attrs
import trio

from hs.core.errors import Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID
from hs.core.streams import EventRow
from hs.lib.backoff import Backoff
from hs.services.push.evaluation.event_context import NotInMemory
from hs.services.push.evaluation.event_evaluation import Evaluator
from hs.services.push.evaluation.event_results import EventResults
from hs.services.push.evaluation.push_queue import PushQueue
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
_WHOLE_ROOM: Final = ""

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class RowEvaluation:
    """Evaluates rows; without `is_on` nothing notifies anybody."""

    _evaluator: Evaluator
    _events: EventStore
    _members: Memberships
    _queue: PushQueue
    _is_on: bool

    def evaluate_nowait(self, results: EventResults, stream_id: int, row: EventRow) -> None:
        """Add to `results` what an event does.

        Raises: NotInMemory; then nothing was added.
        """
        if row.outlier or row.soft_failed or row.rejected:
            return
        # Everything that may raise comes first.
        redacted_id = self._redacted_stream_id(row)
        evaluation = self._evaluator.evaluate_nowait(row)
        if redacted_id is not None:
            results.removed.append((row.room_id, redacted_id))
        if evaluation.notifies and self._is_on:
            results.add_evaluation(stream_id, row, evaluation)
            results.pushes += self._queue.number(stream_id, row, evaluation)
        mark = self._implicit_read(row, evaluation.thread_id)
        if mark is not None:
            results.marks.append((*mark, stream_id))

    async def load(self, row: EventRow) -> None:
        """Read into memory what the evaluation of a row needs, as soon as the database allows."""
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                await self._evaluator.load(row)
                return
            except Unavailable as error:
                pause_s = pauses.next_s()
                log.warning(
                    "event %s cannot be evaluated, retrying in %.1f s: %s",
                    row.event_id,
                    pause_s,
                    error,
                )
                await trio.sleep(pause_s)

    def _redacted_stream_id(self, row: EventRow) -> int | None:
        if not row.redaction_applies or row.redacts is None:
            return None
        redacted = self._events.get_nowait(EventID(row.redacts))
        if redacted is None:
            raise NotInMemory
        return redacted.stream_id

    def _implicit_read(self, row: EventRow, thread_id: str) -> tuple[str, str, str] | None:
        """Return the (user, room, thread) that a local user reads by joining or by sending."""
        if row.membership == event_types.JOIN and row.prev_membership != event_types.JOIN:
            user_id, thread_id = row.state_key, _WHOLE_ROOM
        elif row.state_key is None and row.type != event_types.REDACTION:
            user_id = row.sender
        else:
            return None
        if user_id is None or not self._members.is_local(user_id):
            return None
        return user_id, row.room_id, thread_id
