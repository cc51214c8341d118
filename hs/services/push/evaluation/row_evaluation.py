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
from hs.repl.entry_retries import EntryRetries
from hs.services.push.evaluation.event_context import NotInMemory
from hs.services.push.evaluation.event_evaluation import Evaluation, Evaluator
from hs.services.push.evaluation.event_results import EventResults
from hs.services.push.evaluation.push_queue import PushQueue
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.storage.database import DatabaseError

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
_WHOLE_ROOM: Final = ""
FAILED: Final = "the evaluation of event %s failed, it notifies nobody"

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
        """Add to `results` what an event does; nothing if its evaluation fails.

        Raises: NotInMemory; then nothing was added.
        """
        if not (row.is_shown or row.outside):
            return
        try:
            redacted_id = self._redacted_nowait(row)
            evaluation = self._evaluator.evaluate_nowait(row)
            self._add(results, stream_id, row, evaluation, redacted_id)
        except NotInMemory:
            raise
        except Exception:  # it would fail again after a restart, and later events must not wait
            log.exception(FAILED, row.event_id)

    async def evaluate(self, results: EventResults, stream_id: int, row: EventRow) -> None:
        """Do as `evaluate_nowait`, reading what is not in memory as soon as the database allows.

        A row whose reads fail again and again while the database is there is skipped.
        """
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        retries: EntryRetries[str] = EntryRetries()
        while True:
            try:
                await self._evaluate(results, stream_id, row)
                return
            except (DatabaseError, Unavailable) as error:
                if not retries.may_retry(row.event_id, error):
                    log.exception(FAILED, row.event_id)
                    return
                pause_s = pauses.next_s()
                log.warning(
                    "event %s cannot be evaluated, retrying in %.1f s: %s",
                    row.event_id,
                    pause_s,
                    error,
                )
                await trio.sleep(pause_s)
            except Exception:  # as above
                log.exception(FAILED, row.event_id)
                return

    async def _evaluate(self, results: EventResults, stream_id: int, row: EventRow) -> None:
        redacted_id = await self._load_redacted(row)
        evaluation = await self._evaluator.evaluate(row)
        if evaluation is None:
            log.info("event %s was purged before its evaluation, skipping it", row.event_id)
        else:
            self._add(results, stream_id, row, evaluation, redacted_id)

    def _add(
        self,
        results: EventResults,
        stream_id: int,
        row: EventRow,
        evaluation: Evaluation,
        redacted_id: int | None,
    ) -> None:
        # What may raise comes first, so that `results` has all of an event or nothing.
        mark = self._implicit_read(row, evaluation.thread_id)
        if evaluation.notifies and self._is_on:
            pushes = self._queue.number(stream_id, row, evaluation)
            results.add_evaluation(stream_id, row, evaluation)
            results.pushes += pushes
        if redacted_id is not None:
            results.removed.append((row.room_id, redacted_id))
        if mark is not None:
            results.marks.append((*mark, stream_id))

    def _redacted_nowait(self, row: EventRow) -> int | None:
        """Return the stream ID of the event that an event redacts. Raises: NotInMemory."""
        if not row.redaction_applies or row.redacts is None:
            return None
        redacted = self._events.get_nowait(EventID(row.redacts))
        if redacted is None:
            raise NotInMemory
        return redacted.stream_id

    async def _load_redacted(self, row: EventRow) -> int | None:
        """Return the stream ID of the event that an event redacts, unless that was purged."""
        if not row.redaction_applies or row.redacts is None:
            return None
        redacted = await self._events.get_one(EventID(row.redacts))
        return None if redacted is None else redacted.stream_id

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
