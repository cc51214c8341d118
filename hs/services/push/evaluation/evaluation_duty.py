"""The duty that evaluates every event once, off the sending path, in one process.

Events are evaluated as the feed brings them; when nothing has to be read, within the delivery
itself, so that counts are there when clients are woken. What comes out is told at once on the
stream `unread` and written a moment later in batches, together with how far the evaluation has
come: after a crash it goes on from there and comes to the same result.
"""

import logging
import secrets
from collections import deque
from typing import Final, Protocol

import attrs
import orjson
import trio

from hs.core.errors import Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID
from hs.core.positions import VectorPosition
from hs.lib.backoff import Backoff
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import EventRow, QueuedPush, Unread, UnreadRow
from hs.repl.rpc import rpc
from hs.repl.streams import EVENTS
from hs.repl.writers import WriterReplaced
from hs.services.push.evaluation.custom_rules import CustomRuleUsers
from hs.services.push.evaluation.event_evaluation import Evaluation, Evaluator, NotInMemory
from hs.services.push.evaluation.ignored_users import IgnoringUsers
from hs.services.push.evaluation.push_queue import PushQueue, records_of
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage import stream_log
from hs.storage.database import Database, Tx
from hs.storage.push import push_rules as storage
from hs.storage.push.push_rules import Evaluated, ExceptionRecord, OutcomeRecord

GATHER_S: Final = 0.25
MAX_BEHIND: Final = 500
"""Batches that came to nothing before the progress is written all the same."""

CATCH_UP_EVENTS: Final = 500
MAX_TRIES: Final = 5
FLUSH_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
ASK_S: Final = 5.0
"""How long others wait for what the evaluation has come to; then what is stored has to do."""

_EVERYWHERE: Final = ""

log = logging.getLogger(__name__)


@attrs.frozen
class Progress:
    """What is stored: of the stream `unread`, and therefore of the events of each writer."""

    stored: int
    evaluated: str


class EvaluationStore(Protocol):
    """The process that evaluates."""

    @rpc(timeout_s=ASK_S)
    async def flush(self) -> Progress:
        """Write everything that was told."""
        ...


@attrs.define(eq=False)
class _Pending:
    """What was evaluated and not yet written."""

    outcomes: list[OutcomeRecord] = attrs.Factory(list)
    exceptions: list[ExceptionRecord] = attrs.Factory(list)
    marks: dict[tuple[str, str, str], int] = attrs.Factory(dict)
    removed: list[int] = attrs.Factory(list)
    pushes: list[QueuedPush] = attrs.Factory(list)

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.exceptions or self.marks or self.removed)


@attrs.define(eq=False)
class _Told:
    """What a batch of events comes to."""

    unread: list[Unread] = attrs.Factory(list)
    marks: list[tuple[str, str, str, int]] = attrs.Factory(list)
    removed: list[tuple[str, int]] = attrs.Factory(list)


class EvaluationDuty:
    """Reads the stream of events, and tells and stores what comes out."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        evaluator: Evaluator,
        custom: CustomRuleUsers,
        ignoring: IgnoringUsers,
        events: EventStore,
        members: Memberships,
        writer: MemoryWriter[UnreadRow],
        queue: PushQueue,
        *,
        is_on: bool = True,
    ) -> None:
        self._database = database
        self._feed = feed
        self._evaluator = evaluator
        self._custom = custom
        self._ignoring = ignoring
        self._events = events
        self._members = members
        self._writer = writer
        self._push_queue = queue
        self._is_on = is_on
        self._evaluated = VectorPosition()
        self._queue: deque[Batch[EventRow]] = deque()
        self._running = False
        self._arrived = trio.Event()
        self._to_store = trio.Event()
        self._pending = _Pending()
        self._stored = 0
        self._stored_events = VectorPosition()
        self._behind = 0
        self._caught_up = trio.Event()
        self._storing = trio.Lock()
        self._life = secrets.token_hex(8)
        feed.subscribe(EVENTS, self._on_events)

    @property
    def waiting(self) -> int:
        """How many rows of the events stream wait for something to be read."""
        return sum(len(batch.rows) for batch in self._queue)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Evaluate for ever; ready once all events of before are evaluated.

        Raises: WriterReplaced, in a group, once another process evaluates under this name.
        """
        await self._database.write(
            stream_log.take_over, self._writer.stream.name, self._writer.writer, self._life
        )
        await self._custom.load()
        await self._ignoring.load()
        await self._push_queue.load()
        await self._catch_up()
        self._caught_up.set()
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._store_for_ever)
                await self._evaluate_for_ever()
        finally:
            self._running = False
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._flush()

    async def flush(self) -> Progress:
        """Write everything that was told; at a start, once it is known how far that is."""
        await self._caught_up.wait()
        await self._flush()
        return Progress(self._stored, self._stored_events.encode())

    async def _flush(self) -> None:
        async with self._storing:
            await self._store()

    # Evaluating

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if not self._running or self._queue:
            self._queue.append(batch)
            self._arrived.set()
            return
        told = _Told()
        for index, (stream_id, row) in enumerate(batch.rows):
            try:
                self._take(told, stream_id, row)
            except NotInMemory:
                # The rest is for the task, which may wait.
                if index:
                    self._tell(told, batch.writer, batch.rows[index - 1][0])
                rest = attrs.evolve(batch, rows=batch.rows[index:])
                self._queue.append(rest)
                self._arrived.set()
                return
        self._tell(told, batch.writer, batch.position)

    async def _evaluate_for_ever(self) -> None:
        while True:
            self._running = not self._queue
            if self._running:
                await self._arrived.wait()
            self._arrived = trio.Event()
            while self._queue:
                await self._evaluate(self._queue[0])
                self._queue.popleft()

    async def _evaluate(self, batch: Batch[EventRow]) -> None:
        told = _Told()
        for stream_id, row in batch.rows:
            if not self._evaluated.covers(batch.writer, stream_id):
                await self._take_waiting(told, stream_id, row)
        self._tell(told, batch.writer, batch.position)

    async def _take_waiting(self, told: _Told, stream_id: int, row: EventRow) -> None:
        for _ in range(MAX_TRIES):
            try:
                self._take(told, stream_id, row)
                return
            except NotInMemory:
                await self._prepare_patiently(row)
        raise RuntimeError(f"what {row.event_id} needs does not stay in memory")

    async def _prepare_patiently(self, row: EventRow) -> None:
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                await self._prepare(row)
                return
            except Unavailable as error:
                log.warning("%s cannot be evaluated yet: %s", row.event_id, error)
            await trio.sleep(pauses.next_s())

    async def _prepare(self, row: EventRow) -> None:
        if row.redaction_applies and row.redacts is not None:
            await self._events.get_one(EventID(row.redacts))
        await self._evaluator.prepare(row)

    def _take(self, told: _Told, stream_id: int, row: EventRow) -> None:
        if row.outlier or row.soft_failed or row.rejected:
            return
        # All that may raise comes first: what follows is done once.
        removed = self._removed_by(row)
        evaluation = self._evaluator.evaluate_nowait(row)
        thread_id = self._evaluator.thread_nowait(row)
        if removed is not None:
            told.removed.append((row.room_id, removed.stream_id))
            self._pending.removed.append(removed.stream_id)
        if evaluation is not None and evaluation.matters and self._is_on:
            told.unread.append(_unread(stream_id, row, evaluation))
            self._keep(stream_id, row, evaluation)
        self._mark(told, stream_id, row, thread_id)

    def _removed_by(self, row: EventRow) -> StoredEvent | None:
        if not row.redaction_applies or row.redacts is None:
            return None
        target = self._events.get_nowait(EventID(row.redacts))
        if target is None:
            raise NotInMemory
        return target

    def _mark(self, told: _Told, stream_id: int, row: EventRow, thread_id: str) -> None:
        """Note that a user has read by joining, all of the room, or by sending, the thread."""
        if row.membership == event_types.JOIN and row.prev_membership != event_types.JOIN:
            user_id, thread_id = row.state_key, _EVERYWHERE
        elif row.state_key is None and row.type != event_types.REDACTION:
            user_id = row.sender
        else:
            return
        if user_id is None or not self._members.is_local(user_id):
            return
        told.marks.append((user_id, row.room_id, thread_id, stream_id))
        self._pending.marks[user_id, row.room_id, thread_id] = stream_id

    def _keep(self, stream_id: int, row: EventRow, evaluation: Evaluation) -> None:
        ordinary = evaluation.ordinary
        if ordinary.notify:
            self._pending.outcomes.append(
                OutcomeRecord(
                    stream_id,
                    row.room_id,
                    row.event_id,
                    evaluation.thread_id,
                    row.sender,
                    1,
                    int(ordinary.highlight),
                    orjson.dumps(ordinary.actions).decode(),
                )
            )
        for one in evaluation.differences:
            actions = orjson.dumps(one.outcome.actions).decode() if one.outcome.notify else ""
            self._pending.exceptions.append(
                ExceptionRecord(
                    one.user_id,
                    row.room_id,
                    stream_id,
                    row.event_id,
                    evaluation.thread_id,
                    one.notify,
                    one.highlight,
                    actions,
                )
            )

        self._pending.pushes += self._push_queue.make(
            stream_id, row, evaluation.thread_id, evaluation.pushed
        )

    def _tell(self, told: _Told, writer: str, upto: int) -> None:
        self._evaluated = self._evaluated.advance(writer, upto)
        self._behind += 1
        row = UnreadRow(
            writer,
            upto,
            tuple(told.unread),
            tuple(told.marks),
            tuple(told.removed),
            self._stored,
        )
        self._writer.append_nowait([row])
        if self._pending or self._behind >= MAX_BEHIND:
            self._to_store.set()

    # Storing

    async def _store_for_ever(self) -> None:
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            await self._to_store.wait()
            await trio.sleep(GATHER_S)
            try:
                await self._flush()
                pauses.reset()
            except WriterReplaced:
                raise
            except Unavailable as error:
                # Nothing is lost: it is written with what comes meanwhile; twice is no harm.
                log.warning("what is unread cannot be written yet: %s", error)
                await trio.sleep(pauses.next_s())

    async def _store(self) -> None:
        # Whoever waits for it comes round again, also when somebody else asked for this.
        self._to_store.set()
        self._to_store = trio.Event()
        pending, self._pending = self._pending, _Pending()
        if self._caught_up.is_set() and not self._queue:
            # All that was delivered is evaluated; this knows silent writers as well.
            self._evaluated = self._evaluated.merge(self._feed.position(EVENTS))
        upto, position, behind = self._writer.position, self._evaluated, self._behind
        if not pending and behind == 0:
            self._stored, self._stored_events = upto, position
            return
        marks = [(*key, stream_id) for key, stream_id in pending.marks.items()]
        evaluated = Evaluated(
            pending.outcomes,
            pending.exceptions,
            marks,
            pending.removed,
            position.encode(),
            records_of(pending.pushes),
        )
        try:
            await self._database.write(
                _store_as, self._writer.stream.name, self._writer.writer, self._life, evaluated
            )
        except BaseException:
            self._pending = _joined(pending, self._pending)
            self._to_store.set()
            raise
        self._behind -= behind
        self._stored, self._stored_events = upto, position
        self._push_queue.tell(pending.pushes)

    # After a restart

    async def _catch_up(self) -> None:
        """Evaluate the events that were stored while nobody evaluated."""
        stored = await self._database.read(storage.progress)
        if stored is not None:
            self._evaluated = VectorPosition.parse(stored)
        after = self._evaluated.floor
        while True:
            found = await self._database.read(storage.newer_events, after, CATCH_UP_EVENTS)
            for stream_id, writer, event_id in found:
                if not self._evaluated.covers(writer, stream_id):
                    await self._evaluate_stored(stream_id, writer, EventID(event_id))
            await self._flush()
            if len(found) < CATCH_UP_EVENTS:
                break
            after = found[-1][0]

    async def _evaluate_stored(self, stream_id: int, writer: str, event_id: EventID) -> None:
        stored = await self._events.get_one(event_id)
        if stored is None:
            return
        row = await self._row_of(stored)
        told = _Told()
        await self._take_waiting(told, stream_id, row)
        self._tell(told, writer, stream_id)

    async def _row_of(self, stored: StoredEvent) -> EventRow:
        """Make the row of the feed again, as far as evaluating looks at it."""
        event = stored.event
        membership = event.content.get("membership") if event.type == event_types.MEMBER else None
        target = None if event.redacts is None else await self._events.get_one(event.redacts)
        applies = target is not None and target.redacted_by == event.event_id
        return EventRow(
            room_id=event.room_id,
            event_id=event.event_id,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            depth=event.depth,
            origin_server_ts=event.origin_server_ts,
            membership=membership,
            prev_membership=await self._membership_before(stored) if membership else None,
            redacts=event.redacts,
            snapshot_id=stored.snapshot_id,
            redaction_applies=applies,
        )

    async def _membership_before(self, stored: StoredEvent) -> str | None:
        assert stored.event.state_key is not None
        return await self._evaluator.membership_before(stored, stored.event.state_key)


async def _store_as(tx: Tx, stream: str, writer: str, life: str, evaluated: Evaluated) -> None:
    if not await stream_log.is_writer(tx, stream, writer, life):
        raise WriterReplaced(stream, writer)
    await storage.store(tx, evaluated)


def _unread(stream_id: int, row: EventRow, evaluation: Evaluation) -> Unread:
    return Unread(
        stream_id,
        row.room_id,
        row.event_id,
        evaluation.thread_id,
        row.sender,
        evaluation.ordinary.notify,
        evaluation.ordinary.highlight,
        tuple((one.user_id, one.notify, one.highlight) for one in evaluation.differences),
    )


def _joined(first: _Pending, then: _Pending) -> _Pending:
    return _Pending(
        [*first.outcomes, *then.outcomes],
        [*first.exceptions, *then.exceptions],
        {**first.marks, **then.marks},
        [*first.removed, *then.removed],
        [*first.pushes, *then.pushes],
    )
