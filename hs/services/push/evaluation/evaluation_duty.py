"""The duty that evaluates the push rules for every event once, in the process that writes `unread`.

A row of the events stream takes this way:

1. The feed delivers it. In the state FOLLOWING it is evaluated within the delivery, so that counts
   are there when clients are woken; this must be quick and cannot wait. In other states, or when
   something that it needs is not in memory (NotInMemory) or many rows come at once, it is queued
   with all rows behind it. `evaluation_states` has the states and their transitions.
2. The task `_evaluate_queued` works on queued rows in order, and reads what they need.
3. The results are published on the stream `unread` at once and stored in batches, in one
   transaction with the position of the evaluation (`result_store`).

Rules:

- Each event is evaluated once. At the start the events after the stored position are read from the
  tables, up to the position of the feed at that moment; later ones are delivered and queued. So
  after a crash the evaluation continues where the last transaction ended. Clients are served
  meanwhile: counts lack what is not evaluated yet, and `unread_counts` says how long they wait.
- Rows of one writer are evaluated in their order: while a row waits for the database, all rows
  that arrive wait behind it. The metric `hs_push_evaluation_waiting` is their number. If it exceeds
  MAX_QUEUED_ROWS all of them are dropped, and read from the tables as at the start.
- A row whose event was purged meanwhile, or whose evaluation fails, is skipped: it must not stop
  the evaluation of all others.
- While the database is unavailable, the row at the head of the queue is tried again and again, and
  results stay pending. Nothing is lost, and counts of other processes include what was published.
- If the duty moves to another process, that process takes over the stream `unread`. A process that
  still evaluates can no longer store anything, and ends with WriterReplaced.
  The positions of the new stream are above those of the former one, as memory streams number their
  rows from the time at which they began.
"""

import logging
from typing import Final, NoReturn, Protocol

import attrs
import trio

from hs.core.errors import Unavailable
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow, UnreadRow, without_pdu
from hs.lib.backoff import Backoff
from hs.lib.state_machine import StateMachine
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, QueueOverflow, WhenFull
from hs.repl.generations import WriterReplaced
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rpc import rpc
from hs.services.push.evaluation.custom_rules import UsersWithCustomRules
from hs.services.push.evaluation.evaluation_states import (
    TRANSITIONS,
    EvaluationEvent,
    EvaluationState,
)
from hs.services.push.evaluation.event_context import NotInMemory
from hs.services.push.evaluation.event_evaluation import Evaluator
from hs.services.push.evaluation.event_results import EventResults
from hs.services.push.evaluation.ignored_users import IgnoringUsers
from hs.services.push.evaluation.missed_events import FeedStart, MissedEvents
from hs.services.push.evaluation.push_queue import PushQueue
from hs.services.push.evaluation.result_store import Progress, ResultStore, ResultTables
from hs.services.push.evaluation.row_evaluation import RowEvaluation
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.storage.database import Database

GATHER_S: Final = 0.25
MAX_QUEUED_ROWS: Final = 100_000
"""About 100 MB. When more are waiting, all of them are read from the tables instead."""

ROWS_AT_ONCE: Final = 25
"""How many rows are evaluated before other tasks run."""

FLUSH_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
ASK_S: Final = 5.0
"""How long other processes wait for `flush`; after that they use what is stored."""

log = logging.getLogger(__name__)


class EvaluationStore(Protocol):
    """The process that evaluates."""

    @rpc(timeout_s=ASK_S)
    async def flush(self) -> Progress:
        """Store the results of all events evaluated so far."""
        ...


class EvaluationDuty:
    """Evaluates the rows of the events stream and publishes the results."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        evaluator: Evaluator,
        custom: UsersWithCustomRules,
        ignoring: IgnoringUsers,
        events: EventStore,
        members: Memberships,
        writer: MemoryWriter[UnreadRow],
        queue: PushQueue,
        *,
        is_on: bool = True,
    ) -> None:
        self._feed = feed
        self._sources = (custom, ignoring, queue)
        self._missed = MissedEvents(database, events, evaluator.contexts)
        self._left_to_read = 0
        self._rows = RowEvaluation(evaluator, events, members, queue, is_on)
        tables = ResultTables(database, writer.stream.name)
        self._results = ResultStore(tables, writer, queue)
        self._states = StateMachine(TRANSITIONS, EvaluationState.STARTING)
        self._begun = trio.Event()
        # Events up to here were read from the tables, or evaluated before; if those are delivered
        # all the same, they are skipped.
        self._caught_up_to = VectorPosition()
        self._queue: FeedQueue[Batch[EventRow]] = FeedQueue(
            "evaluation",
            MAX_QUEUED_ROWS,
            WhenFull.START_OVER,
            is_open=False,
            size=lambda batch: len(batch.rows),
        )
        feed.subscribe(EVENTS, self._on_events)

    @property
    def waiting(self) -> int:
        """Number of rows of the events stream that wait to be evaluated, at most."""
        return self._queue.waiting + self._left_to_read

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Evaluate for ever; ready once it is known how far events were evaluated before.

        Raises: WriterReplaced, in a group, once another process evaluates.
        """
        await self._results.take_over()
        for source in self._sources:
            await source.load()
        self._results.advance(await self._missed.stored_position())
        self._states.handle(EvaluationEvent.LOADED)
        self._begun.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._store_for_ever)
                nursery.start_soon(self._evaluate_for_ever)
                task_status.started()
        finally:
            self._states.handle(EvaluationEvent.STOPPED)
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._flush()

    async def flush(self) -> Progress:
        """Store the results of all events evaluated so far."""
        await self._begun.wait()
        await self._flush()
        return self._results.progress

    async def _flush(self) -> None:
        if self._states.state is EvaluationState.FOLLOWING:
            # Every delivered row is evaluated. The feed also knows writers that write nothing.
            self._results.advance(self._feed.position(EVENTS))
        await self._results.flush()

    async def _store_for_ever(self) -> NoReturn:
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            await self._results.wait_for_work()
            await trio.sleep(GATHER_S)
            try:
                await self._flush()
                pauses.reset()
            except WriterReplaced:
                raise
            except Unavailable as error:
                pause_s = pauses.next_s()
                log.warning(
                    "results of push rules cannot be stored, retrying in %.1f s: %s", pause_s, error
                )
                await trio.sleep(pause_s)

    # Evaluating

    def _on_events(self, batch: Batch[EventRow]) -> None:
        done = 0
        if self._states.state is EvaluationState.FOLLOWING:
            done = self._evaluate_nowait(batch, 0)
            if done == len(batch.rows):
                return
            self._states.handle(EvaluationEvent.ROWS_LEFT)
        rows = [(stream_id, without_pdu(row)) for stream_id, row in batch.rows[done:]]
        self._queue.put(attrs.evolve(batch, rows=rows))

    async def _evaluate_for_ever(self) -> NoReturn:
        while True:
            with self._queue.opened():
                # No await since the queue was opened: what this position does not cover is queued.
                await self._catch_up(self._feed_start())
                self._states.handle(EvaluationEvent.CAUGHT_UP)
                try:
                    await self._evaluate_queued()
                except QueueOverflow as error:
                    log.warning("evaluation of push rules starts over: %s", error)
                    self._states.handle(EvaluationEvent.OVERFLOWN)

    async def _evaluate_queued(self) -> NoReturn:
        """Evaluate what is queued. Raises: QueueOverflow."""
        while True:
            await self._queue.serve_waiting(self._evaluate_all)
            if not self._queue:
                # Otherwise more arrived, or an overflow dropped rows, as `wait` tells.
                self._states.handle(EvaluationEvent.DRAINED)
            await self._queue.wait()

    async def _evaluate_all(self, batches: list[Batch[EventRow]]) -> None:
        for batch in batches:
            await self._evaluate(batch)

    async def _evaluate(self, batch: Batch[EventRow]) -> None:
        """Evaluate the rows of a batch, reading what they need."""
        done, count = 0, len(batch.rows)
        while True:
            begin, done = done, self._evaluate_nowait(batch, done)
            if done < min(count, begin + ROWS_AT_ONCE):
                await self._evaluate_row(batch, done)
                done += 1
            if done == count:
                return
            await trio.lowlevel.checkpoint()

    async def _evaluate_row(self, batch: Batch[EventRow], index: int) -> None:
        """Evaluate and publish one row of a batch, reading what it needs."""
        results = EventResults()
        await self._rows.evaluate(results, *batch.rows[index])
        self._publish(results, batch, index + 1)

    def _evaluate_nowait(self, batch: Batch[EventRow], begin: int) -> int:
        """Evaluate and publish as many rows as memory allows, up to ROWS_AT_ONCE of them.

        Rows that were evaluated when catching up are skipped. Return the index of the first row
        that is left.
        """
        results = EventResults()
        done = begin
        for stream_id, row in batch.rows[begin : begin + ROWS_AT_ONCE]:
            if not self._caught_up_to.covers(batch.writer, stream_id):
                try:
                    self._rows.evaluate_nowait(results, stream_id, row)
                except NotInMemory:
                    break
            done += 1
        if done > begin:
            self._publish(results, batch, done)
        return done

    def _publish(self, results: EventResults, batch: Batch[EventRow], done: int) -> None:
        upto = batch.position if done == len(batch.rows) else batch.rows[done - 1][0]
        self._results.publish(results, batch.writer, upto)

    # Catching up

    def _feed_start(self) -> FeedStart:
        writers = frozenset(self._feed.positions_of(EVENTS))
        return FeedStart(self._feed.position(EVENTS), writers)

    async def _catch_up(self, start: FeedStart) -> None:
        """Evaluate the events up to the start of the feed that no process has evaluated."""
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        after: int | None = self._results.position.floor
        while after is not None:
            self._left_to_read = max(0, start.position.most() - after)
            try:
                after = await self._evaluate_page(after, start)
                pauses.reset()
            except WriterReplaced:
                raise
            except Unavailable as error:
                pause_s = pauses.next_s()
                log.warning(
                    "missed events cannot be evaluated, retrying in %.1f s: %s", pause_s, error
                )
                await trio.sleep(pause_s)
        self._left_to_read = 0
        for writer in start.writers:
            # Also tells that nothing is left of a writer whose last events notify nobody.
            self._results.publish(EventResults(), writer, start.position.get(writer))
        self._results.advance(start.position)
        self._caught_up_to = self._results.position

    async def _evaluate_page(self, after: int, start: FeedStart) -> int | None:
        batches, following = await self._missed.page(after, self._results.position, start)
        for batch in batches:
            await self._evaluate(batch)
            await trio.lowlevel.checkpoint()
        await self._flush()
        return following
