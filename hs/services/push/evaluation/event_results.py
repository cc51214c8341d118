"""The results of evaluating events: announced on the stream `unread`, then stored."""

import attrs
import orjson

from hs.core.push.evaluate import Outcome
from hs.core.streams import EventRow, QueuedPush, Unread, UnreadRow
from hs.services.push.evaluation.event_evaluation import Evaluation
from hs.services.push.evaluation.push_queue import record_of
from hs.storage.push.push_rules import Evaluated, ExceptionRecord, OutcomeRecord


@attrs.define(eq=False)
class EventResults:
    """The results of some events, in the order of evaluation.

    `batches` is how many batches of events were published with them.
    `marks` are (user, room, thread, stream ID) up to which users have read by joining or sending;
    `removed` are (room, stream ID) of events that were redacted.
    """

    batches: int = 0
    unread: list[Unread] = attrs.Factory(list)
    outcomes: list[OutcomeRecord] = attrs.Factory(list)
    exceptions: list[ExceptionRecord] = attrs.Factory(list)
    marks: list[tuple[str, str, str, int]] = attrs.Factory(list)
    removed: list[tuple[str, int]] = attrs.Factory(list)
    pushes: list[QueuedPush] = attrs.Factory(list)

    def __bool__(self) -> bool:
        return bool(self.unread or self.marks or self.removed)

    def add_evaluation(self, stream_id: int, row: EventRow, evaluation: Evaluation) -> None:
        """Add the evaluation of an event that notifies users."""
        ordinary, differences = evaluation.ordinary, evaluation.differences
        place = (stream_id, row.room_id, row.event_id, evaluation.thread_id, row.sender)
        exceptions = tuple([difference[:3] for difference in differences])
        # Encoding actions may raise, so nothing is added before.
        actions = _actions(ordinary)
        records = [
            ExceptionRecord(
                user_id=difference.user_id,
                room_id=row.room_id,
                stream_id=stream_id,
                event_id=row.event_id,
                thread_id=evaluation.thread_id,
                notify=difference.notify,
                highlight=difference.highlight,
                actions=_actions(difference.outcome),
            )
            for difference in differences
        ]
        self.unread.append(Unread(*place, ordinary.notify, ordinary.highlight, exceptions))
        if ordinary.notify:
            self.outcomes.append(
                OutcomeRecord(
                    stream_id=stream_id,
                    room_id=row.room_id,
                    thread_id=evaluation.thread_id,
                    sender=row.sender,
                    notify=1,
                    highlight=int(ordinary.highlight),
                    actions=actions,
                )
            )
        self.exceptions += records

    def append(self, later: "EventResults") -> None:
        """Append the results of later events."""
        self.batches += later.batches
        self.unread += later.unread
        self.outcomes += later.outcomes
        self.exceptions += later.exceptions
        self.marks += later.marks
        self.removed += later.removed
        self.pushes += later.pushes

    def stream_row(self, writer: str, upto: int, stored: int) -> UnreadRow:
        """Return the row of the stream `unread` for events of one writer."""
        return UnreadRow(
            writer=writer,
            upto=upto,
            unread=tuple(self.unread),
            marks=tuple(self.marks),
            removed=tuple(self.removed),
            stored=stored,
        )

    def records(self, position: str) -> Evaluated:
        """Return what is stored together with the position of the evaluation."""
        # Of two marks with one key the later one counts.
        marks = {mark[:3]: mark for mark in self.marks}
        return Evaluated(
            outcomes=self.outcomes,
            exceptions=self.exceptions,
            marks=list(marks.values()),
            removed=[stream_id for _, stream_id in self.removed],
            position=position,
            queue=[record_of(push, user_id) for push in self.pushes for user_id in push.user_ids],
        )


def _actions(outcome: Outcome) -> str:
    return orjson.dumps(outcome.actions).decode() if outcome.notify else ""
