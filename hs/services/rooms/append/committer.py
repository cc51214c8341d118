"""The committer: writes the batches of all rooms, grouped into large transactions.

Rules:

- Batches are committed in the order of submission, one transaction at a time. A batch that is
  built on another batch of its room is therefore committed after it, or together with it. While
  a transaction runs, the next group gathers. If the last group had events of several requests, the
  next one waits until `QUIET_TURNS` turns of the event loop bring no event, or for GATHER_S:
  senders that were answered together send again together, and would else be two groups in turns.
- Commits run in the committer's own task, shielded. A waiter that is cancelled does not stop them.
- If the database is not available, the whole group fails. If the transaction breaks for another
  reason, such as a duplicate event ID, each room of the group is tried again alone, so that one
  room cannot fail the others.
- If it is not known in time whether a transaction was committed, the waiters of its group and of
  the queue get NotCommitted, and `check_open` rejects new batches. The batches stay pending, with
  their rooms pinned and their transaction IDs taken, until the writer has found out: so no room or
  transaction ID is read from the database before it can show the outcome. Then the group finishes
  or fails, and all others fail, because their waiters have been told so.
- Together with a batch fail all queued batches of its room, as they are built on events that were
  not stored. `hot_rooms` drops the room in the same step, so nothing more can be built on them.
- If the writer was fenced, what was submitted before that fails: others may write these rooms now.
- On shutdown, what is queued is still written, for at most FLUSH_S; what is left fails, and
  `check_open` rejects new batches.
- No wake-up is lost: `_wake` is replaced without an await after the queue was found empty.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import trio

from hs.core.errors import MatrixError, OutcomeUnknown, Unavailable
from hs.core.streams import BACKFILL, EventRow
from hs.lib.clock import Clock
from hs.lib.grace import calling_when_cancelled
from hs.repl.generations import WriterReplaced
from hs.repl.writers import TableWriter, WriterFenced, WriterStopped
from hs.services.rooms.append.commit_rows import ChainIndexer, CommitWork
from hs.services.rooms.append.commit_transaction import CommitResult, commit_group
from hs.services.rooms.append.pending_events import EventBatch
from hs.services.rooms.store.state_snapshots import Snapshot, unstored
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import CommitUnknown, DatabaseUnavailable
from hs.storage.rooms.state import Key

MAX_GROUP_EVENTS: Final = 500
MAX_WAITING_EVENTS: Final = 20_000
MAX_KEY_IDS: Final = 200_000
FLUSH_S: Final = 10.0
QUIET_TURNS: Final = 3
GATHER_S: Final = 0.005

log = logging.getLogger(__name__)


class NotCommitted(MatrixError):
    """The events were not stored, or nobody knows yet; the request may be repeated."""

    def __init__(self, message: str) -> None:
        super().__init__("M_UNKNOWN", 503, message)

    def __reduce__(self) -> tuple[type["NotCommitted"], tuple[str]]:
        return (NotCommitted, (self.message,))


@attrs.define(eq=False)
class Committer:
    """Writes batches in the order of submission."""

    _writer: TableWriter[EventRow]
    _states: StateStore
    _clock: Clock
    _server_name: str
    _index_chains: ChainIndexer
    _queue: list[EventBatch] = attrs.Factory(list)
    _waiting_events: int = 0
    _wake: trio.Event = attrs.Factory(trio.Event)
    _stopped: bool = False
    _has_many_senders: bool = False
    _taken: Sequence[EventBatch] = ()
    _in_flight: Sequence[EventBatch] = ()
    _late: Exception | None = None
    _key_ids: dict[Key, int] = attrs.Factory(dict)

    @property
    def waiting_events(self) -> int:
        """Number of events that wait for the next transaction."""
        return self._waiting_events

    def check_open(self) -> None:
        """Raise NotCommitted if no further event can be queued."""
        if self._stopped:
            raise NotCommitted("The server is shutting down")
        if self._late is not None:
            raise NotCommitted(Unavailable.ANSWER)
        if self._waiting_events > MAX_WAITING_EVENTS:
            raise NotCommitted("Too many events are waiting to be stored; try again later")

    def submit(self, batch: EventBatch) -> None:
        """Queue a batch; the caller has called `check_open`, with no await in between."""
        batch.fences = self._writer.generation.fences
        self._queue.append(batch)
        self._waiting_events += len(batch.events)
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit batches until cancelled; then commit those still queued, and stop.

        The TableWriter of the events stream must be stopped after this.
        """
        task_status.started()
        try:
            async with calling_when_cancelled(self._writer.stop_settling):
                while True:
                    await self._wake.wait()
                    with trio.CancelScope(shield=True):
                        await self._commit_waiting()
        finally:
            self._stopped = True
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._commit_waiting()
            # Those taken are left only if the time was over during their commit.
            self._fail(self._taken, CommitUnknown("the process stopped during the commit"))
            self._fail(self._queue, WriterStopped("events"))

    async def _commit_waiting(self) -> None:
        while self._queue:
            await self._gather()
            self._taken = self._take_group()
            await self._commit(self._taken)
            if self._late is not None:
                self._fail(self._queue, self._late)
            self._taken, self._in_flight, self._late = (), (), None
        self._wake = trio.Event()

    async def _gather(self) -> None:
        """Wait for further events of simultaneous senders; see the rules above."""
        quiet = 0 if self._has_many_senders else QUIET_TURNS
        deadline = trio.current_time() + GATHER_S
        while quiet < QUIET_TURNS and trio.current_time() < deadline:
            before = self._waiting_events
            await trio.lowlevel.checkpoint()
            quiet = quiet + 1 if self._waiting_events == before else 0

    def _take_group(self) -> list[EventBatch]:
        events = 0
        taken = 0
        for batch in self._queue:
            if taken and events + len(batch.events) > MAX_GROUP_EVENTS:
                break
            taken += 1
            events += len(batch.events)
        group = self._queue[:taken]
        del self._queue[:taken]
        self._has_many_senders = taken > 1
        self._waiting_events -= events
        return group

    async def _commit(self, group: Sequence[EventBatch]) -> None:
        if self._late is not None:
            self._fail(group, self._late)
            return
        fences = self._writer.generation.fences
        outdated = [batch for batch in group if batch.fences != fences]
        if outdated:
            self._fail(outdated, WriterFenced("events", self._writer.writer))
            group = [batch for batch in group if batch.fences == fences]
            if not group:
                return
        work = self._commit_work(group)
        self._in_flight = group
        try:
            result = await self._writer.write_now(commit_group, work, on_late=self._answer_late)
        except (DatabaseUnavailable, WriterStopped, WriterReplaced, WriterFenced) as error:
            self._fail(group, error)
        except Exception as error:  # noqa: BLE001 - whatever the reason, nothing was written
            await self._isolate(group, error)
        else:
            self._finish(work, result)

    def _answer_late(self, error: Exception) -> None:
        self._late = error
        for batch in (*self._taken, *self._queue):
            if not batch.is_finished:
                batch.answer_late(_error_of(batch, self._in_flight, error))

    async def _isolate(self, group: Sequence[EventBatch], error: Exception) -> None:
        # The events of one room broke the transaction for all rooms: try each room alone.
        rooms: dict[str, list[EventBatch]] = {}
        for batch in group:
            rooms.setdefault(batch.room_id, []).append(batch)
        if len(rooms) == 1:
            log.error("could not commit events of room %s", group[0].room_id, exc_info=error)
            self._fail(group, error)
            return
        for batches in rooms.values():
            await self._commit(batches)

    def _commit_work(self, group: Sequence[EventBatch]) -> CommitWork:
        snapshots: dict[int, tuple[str, Snapshot]] = {}
        for batch in group:
            referenced = [e.state_before for e in batch.events if e.state_before is not None]
            if batch.head is not None:
                referenced.append(batch.head.snapshot)
            for snapshot in referenced:
                if snapshot.id is None:
                    for ancestor in unstored(snapshot, snapshots):
                        snapshots.setdefault(id(ancestor), (batch.room_id, ancestor))
        return CommitWork(
            batches=group,
            snapshots=list(snapshots.values()),
            key_ids=self._key_ids,
            writer=self._writer.writer,
            server_name=self._server_name,
            now_ms=self._clock.now_ms(),
            index_chains=self._index_chains,
            is_history=self._writer.stream is BACKFILL,
        )

    def _finish(self, work: CommitWork, result: CommitResult) -> None:
        for (_, snapshot), snapshot_id in zip(work.snapshots, result.snapshot_ids, strict=True):
            snapshot.mark_stored(snapshot_id)
            self._states.remember_snapshot(snapshot)
        self._remember_keys(result.key_ids)
        numbers = iter(result.stream_ids)
        for batch in work.batches:
            for pending in batch.events:
                pending.stream_id = next(numbers)
        for batch in work.batches:
            batch.finish()

    def _remember_keys(self, key_ids: Mapping[Key, int]) -> None:
        if len(self._key_ids) > MAX_KEY_IDS:
            self._key_ids.clear()
        self._key_ids.update(key_ids)

    def _fail(self, group: Sequence[EventBatch], cause: Exception) -> None:
        failed_rooms = {batch.room_id for batch in group}
        # Queued batches of these rooms are built on events that were not stored: they fail as well.
        dependents = [batch for batch in self._queue if batch.room_id in failed_rooms]
        self._queue = [batch for batch in self._queue if batch.room_id not in failed_rooms]
        self._waiting_events = sum(len(batch.events) for batch in self._queue)
        for batch in (*group, *dependents):
            if not batch.is_finished:
                batch.finish(batch.error or _error_of(batch, group, cause))


def _error_of(batch: EventBatch, in_flight: Sequence[EventBatch], cause: Exception) -> NotCommitted:
    is_unknown = isinstance(cause, OutcomeUnknown) and batch in in_flight
    error = NotCommitted(
        OutcomeUnknown.ANSWER if is_unknown else "The events could not be stored; try again"
    )
    error.__cause__ = cause
    return error
