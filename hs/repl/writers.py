"""The writer of table streams: commits many changes together, then publishes their rows.

Rules:

- A commit runs in the writer's own task (but see `write_now`), so a caller that is cancelled never
  stops one half way.
  One transaction is in flight at a time; the jobs that arrive meanwhile form the next batch.
- First the commit, then the rows reach the local feed and the transport, then callers get their
  results. A caller that reads the feed therefore sees its own change.
- The position of the writer is part of every transaction, under the condition that this life of
  the writer (the *generation*) is still the latest. Of two processes with the same name only the
  one that started last can commit; the other one fails with WriterReplaced.
- A process that does not respond loses its slots to others (hs/repl/slots), which fence its
  writers: no generation is valid. A commit that is rejected therefore fails with WriterFenced, and
  so does whatever was accepted before the new generation (hs/repl/generations.py).
- If the connection breaks during a commit, the outcome is unknown. The writer then changes its
  generation in the database, which waits for a commit that is still running and prevents one
  that arrives later, and reads the position: the batch was committed if it ends there. If not, it
  is written again. If the database refuses to tell, `run` fails and the process must end, because
  nobody knows what was written.
- While the database is unavailable, the writer asks on without end. After ANSWER_S, the *answered*
  jobs get CommitUnknown, and the jobs that wait are refused, as new ones are from then on. For an
  answered caller that is as if it had been cancelled: if its batch turns out to be committed, it is
  published then, once; if not, it is not written any more. No transaction begins before the
  outcome is known, so each one sees a database in which that commit has happened or never will.
- When the process stops, the outcome is asked for at most SETTLE_STOP_S more. Then `run` fails; the
  next life of the writer waits for the commit and begins at its position.
- If a job raises, its batch is split in halves, each of which is written, until only that job
  fails.
- Numbers come from one sequence per stream. With no transaction in flight, all numbers that this
  writer will ever get are above those that other writers have committed. So an idle writer
  announces the position of the others as its own, and readers need no vector. It does not if its
  process has hung for so long that a next life may write under its name: a token made from that
  position would skip the rows of that life.
"""

import logging
import math
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Generic, TypeVar

import attrs
import outcome
import trio

from hs.core.errors import Unavailable
from hs.core.stream_def import StreamDef
from hs.lib.grace import calling_when_cancelled
from hs.repl.commit_log import CommitLog
from hs.repl.feed import Batch, Interest
from hs.repl.generations import Generation, WriterReplaced
from hs.repl.transport import Transport
from hs.storage import stream_log
from hs.storage.database import (
    CommitUnknown,
    Database,
    DatabaseUnavailable,
    RowMissing,
    Tx,
)

R = TypeVar("R")
T = TypeVar("T")
Rows = list[tuple[int, R]]
Unit = Callable[..., Coroutine[Any, Any, tuple[T, list[tuple[int, R]]]]]  # unit(tx, ids, *args)

MAX_WAITING = 5000  # jobs; beyond that callers wait before they may add one
MAX_BATCH = 500
FLUSH_S = 10.0  # to write the waiting jobs when the process stops
ANSWER_S = 5.0  # to find out whether a batch was committed, before its callers are answered
SETTLE_STOP_S = 5.0  # to find that out when the process stops
SETTLED_ATTEMPTS = 3

log = logging.getLogger(__name__)


class WriterStopped(Unavailable):
    """The writer has stopped; nothing was written."""


class WriterFenced(Unavailable):
    """Other processes have taken over what this writer was about to write; nothing was written."""

    def __init__(self, stream: str, writer: str) -> None:
        super().__init__(f"other processes have taken over what {writer} writes to stream {stream}")


@attrs.define(eq=False)
class StreamIds:
    """The stream IDs for one transaction; one statement reserves those of a whole batch."""

    _tx: Tx
    _stream: str
    _jobs_left: int = 1
    _reserved: list[int] = attrs.Factory(list)  # descending

    async def next_id(self) -> int:
        """Return an ID that is greater than all before."""
        if not self._reserved:
            await self._reserve(1)
        return self._reserved.pop()

    async def next_ids(self, count: int) -> list[int]:
        """Return ascending IDs that are greater than all before, not always consecutive."""
        if len(self._reserved) < count:
            await self._reserve(count - len(self._reserved))
        return [self._reserved.pop() for _ in range(count)]

    async def _reserve(self, count: int) -> None:
        # The later jobs of this batch will most likely need one each.
        new_ids = await self._tx.next_ids(self._stream, count + self._jobs_left - 1)
        self._reserved = [*reversed(new_ids), *self._reserved]

    def begin_job(self, jobs_left: int) -> None:
        """Set how many jobs of the batch, this one included, may still need IDs."""
        self._jobs_left = jobs_left


@attrs.define(eq=False)
class _Job:
    """A unit to write. `on_late` is called instead of answering before the outcome is known.

    `fences` is the number of fences of the writer when the job was accepted.
    """

    unit: Unit[Any, Any]
    args: tuple[Any, ...]
    fences: int
    on_late: Callable[[Exception], None] | None = None
    done: trio.Event = attrs.Factory(trio.Event)
    result: outcome.Outcome[Any] | None = None

    def finish(self, result: outcome.Outcome[Any]) -> None:
        """Answer the caller, unless it has an answer."""
        if not self.done.is_set():
            self.result = result
            self.done.set()

    def answer_late(self, error: Exception) -> None:
        """Answer the caller, as the outcome is not known in time."""
        if self.on_late is None:
            self.finish(outcome.Error(error))
        else:
            self.on_late(error)


@attrs.define(eq=False)
class _Attempt(Generic[R]):
    """An attempt to commit a batch, by a generation of the writer.

    Results and rows are those of its transaction's last run.

    `number` is 1 for the first attempt; another one follows when nothing of it was committed.
    """

    jobs: list[_Job]
    number: int
    generation: str
    results: list[Any] = attrs.Factory(list)
    rows: list[tuple[int, R]] = attrs.Factory(list)


@attrs.define(eq=False)
class TableWriter(Generic[R]):
    """The only writer of a table stream under the name of an instance.

    `committed` is the position of its last published row; at or below `position` it will write no
    more rows. `may_be_replaced` returns whether a next life of the process may be writing under the
    same name: then this one does not know whether there are rows up to a position. `commits`,
    `jobs_committed`, `rows_committed` and `commit_s` are metrics.
    """

    stream: StreamDef[R]
    writer: str
    _database: Database
    _transport: Transport
    _now_ms: Callable[[], int]
    _on_fenced: Callable[[], None] | None = None
    _may_be_replaced: Callable[[], bool] = lambda: False
    position: int = 0
    committed: int = 0
    epoch: int = 0
    commits: int = 0
    jobs_committed: int = 0
    rows_committed: int = 0
    commit_s: float = 0.0
    _waiting: list[_Job] = attrs.Factory(list)
    _taken: list[_Job] = attrs.Factory(list)
    _wake: trio.Event = attrs.Factory(trio.Event)
    _has_room: trio.Event = attrs.Factory(trio.Event)
    _busy: bool = False
    _stopped: bool = False
    _fault: Exception | None = None
    _late: Exception | None = None  # set while the callers of an unsettled batch are answered
    _settling: trio.CancelScope | None = None
    _settle_until: float = math.inf
    generation: Generation = attrs.field(init=False)
    _log: CommitLog[R] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.generation = Generation(self.stream.name, self.writer, self._database, self._on_fenced)
        self._log = CommitLog(self.stream, self.writer, self._now_ms)

    @property
    def waiting(self) -> int:
        """Number of jobs that wait for the next transaction."""
        return len(self._waiting)

    async def write(self, unit: Unit[T, R], *args: Any) -> T:
        """Run `unit(tx, ids, *args)` in a write transaction together with other waiting jobs.

        The unit returns a result and rows with ascending IDs, and may run more than once. This
        returns the result after the rows were committed and delivered to this process's feed.

        Raises: what the unit raised; WriterStopped; WriterReplaced; DatabaseUnavailable, as
        CommitUnknown if the unit may have been written.
        """
        while len(self._waiting) >= MAX_WAITING and not self._stopped and self._late is None:
            await self._has_room.wait()
        if self._stopped:
            raise WriterStopped(self.stream.name)
        if self._late is not None:
            raise self._refusal()
        job = _Job(unit, args, self.generation.fences)
        self._waiting.append(job)
        self._wake.set()
        await job.done.wait()
        assert job.result is not None
        result: T = job.result.unwrap()
        return result

    async def write_earlier(self) -> None:
        """Wait until all that was accepted before has been written, or has failed.

        Raises: as `write`.
        """
        await self.write(_nothing)

    async def write_now(
        self, unit: Unit[T, R], *args: Any, on_late: Callable[[Exception], None]
    ) -> T:
        """Do the same as `write`, but at once and in the caller's task.

        For a caller that collects batches itself and is the only one that writes to the stream:
        it saves two task switches. The caller must shield itself from cancellation, and call
        `stop_settling` when it is cancelled. This returns when the outcome is known; `on_late` is
        called with CommitUnknown if that takes long.
        """
        if self._stopped:
            raise WriterStopped(self.stream.name)
        assert not self._busy
        job = _Job(unit, args, self.generation.fences, on_late)
        self._busy = True
        try:
            await self._write_batch([job])
        finally:
            self._busy, self._late = False, None
            self._follow_others()
        assert job.result is not None
        result: T = job.result.unwrap()
        return result

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write jobs until cancelled, then write those that are waiting and stop.

        Raises: WriterReplaced, CommitUnknown; the process must end.
        """
        positions = await self.generation.take_over()
        self.committed = positions.get(self.writer, 0)
        # IDs only grow, so this writer's will be above whatever any writer has committed.
        self.position = max(positions.values(), default=0)
        self._transport.attach(self)
        self._transport.feed.subscribe(self.stream, self._on_batch, Interest.POSITIONS)
        task_status.started()
        try:
            async with calling_when_cancelled(self.stop_settling):
                while self._fault is None:
                    await self._wake.wait()
                    with trio.CancelScope(shield=True):
                        await self._write_waiting()
        finally:
            self._stopped = True
            self._has_room.set()
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._write_waiting()
            _fail(self._waiting, WriterStopped(self.stream.name))
            if self._fault is not None:
                raise self._fault

    def stop_settling(self) -> None:
        """Limit how long the outcome of a commit is asked for, because the process stops."""
        self._settle_until = trio.current_time() + SETTLE_STOP_S
        if self._settling is not None:
            self._settling.deadline = self._settle_until

    def since(self, after: int) -> Batch[R] | None:
        """Return None: the rows are in the tables."""
        return None

    async def _write_waiting(self) -> None:
        while self._waiting and self._fault is None:
            jobs = self._waiting[:MAX_BATCH]
            del self._waiting[:MAX_BATCH]
            self._has_room.set()
            self._has_room = trio.Event()
            self._busy, self._taken = True, jobs
            try:
                await self._write_batch(jobs)
            finally:
                self._busy, self._taken, self._late = False, [], None
                # Only those of a batch that was cancelled have no answer.
                _fail(jobs, CommitUnknown("the process stopped during a commit"))
        self._wake = trio.Event()
        self._follow_others()

    async def _write_batch(self, jobs: list[_Job], number: int = 1) -> None:
        if self._late is not None:
            _fail(jobs, self._late)
            return
        outdated = [job for job in jobs if job.fences != self.generation.fences]
        if outdated:
            _fail(outdated, WriterFenced(self.stream.name, self.writer))
            jobs = [job for job in jobs if job.fences == self.generation.fences]
            if not jobs:
                return
        attempt: _Attempt[R] = _Attempt(jobs, number, self.generation.current)
        began = perf_counter()
        try:
            await self._database.write(self._transaction, attempt)
        except CommitUnknown as error:
            if number > 1:
                await self._settle(attempt, error)
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer_in_time, jobs, error)
                await self._settle(attempt, error)
                nursery.cancel_scope.cancel()
        except RowMissing:
            await self._reject(attempt)
        except DatabaseUnavailable as error:
            _fail(jobs, error)
        except Exception as error:  # noqa: BLE001 - it goes to the caller of the write
            if len(jobs) == 1:
                _fail(jobs, error)
                return
            # Halved until only the job that raises fails.
            half = len(jobs) // 2
            await self._write_batch(jobs[:half])
            await self._write_batch(jobs[half:])
        else:
            self.commits += 1
            self.jobs_committed += len(jobs)
            self.rows_committed += len(attempt.rows)
            self.commit_s += perf_counter() - began
            self._finish(attempt)

    async def _transaction(self, tx: Tx, attempt: _Attempt[R]) -> None:
        ids = StreamIds(tx, self.stream.name)
        results: list[Any] = []
        rows: Rows[R] = []
        for index, job in enumerate(attempt.jobs):
            ids.begin_job(len(attempt.jobs) - index)
            result, added = await job.unit(tx, ids, *job.args)
            results.append(result)
            rows.extend(added)
        rows.sort(key=_id_of)
        attempt.results, attempt.rows = results, rows
        if rows:
            await self._record(tx, rows, attempt.generation)
        else:
            # It may have written something that needs no row.
            await self._set_position(tx, attempt.generation, self.committed)

    async def _reject(self, attempt: _Attempt[R]) -> None:
        """Fail a batch that the database rejected: this writer was fenced, or replaced."""
        name, jobs = self.stream.name, attempt.jobs
        try:
            is_fenced = await self.generation.was_fenced(attempt.generation)
        except Unavailable as error:
            _fail(jobs, error)  # nothing was written; the next commit is rejected again
            return
        if is_fenced:
            _fail(jobs, WriterFenced(name, self.writer))
        else:
            self._give_up(jobs, WriterReplaced(name, self.writer))

    async def _settle(self, attempt: _Attempt[R], error: CommitUnknown) -> None:
        """Find out whether a batch was committed, and commit it if not; see the rules above."""
        if not attempt.rows:
            _fail(attempt.jobs, error)
            return
        position = None
        try:
            with trio.CancelScope(deadline=self._settle_until) as self._settling:
                position = await self.generation.position_after(attempt.generation)
        except Exception as refusal:  # noqa: BLE001 - whatever the reason, it is not settled
            error.__cause__ = refusal
        finally:
            self._settling = None
        if position is None:
            self._give_up(attempt.jobs, error)
            return
        if position == attempt.rows[-1][0]:
            self._finish(attempt)
        elif self.generation.current == attempt.generation:
            _fail(attempt.jobs, WriterFenced(self.stream.name, self.writer))
        elif attempt.number < SETTLED_ATTEMPTS:
            await self._write_batch(attempt.jobs, attempt.number + 1)
        else:
            _fail(attempt.jobs, error)

    async def _answer_in_time(self, jobs: list[_Job], error: CommitUnknown) -> None:
        """Answer the callers of an attempt, and all that wait behind it; see the rules above."""
        await trio.sleep(ANSWER_S)
        self._late = error
        log.critical(
            "stream %s: it is not known whether a commit was written (%s); refusing writes until "
            "the database tells",
            self.stream.name,
            error,
        )
        for job in jobs:
            job.answer_late(error)
        # Of a batch that was split, the other parts are not being written.
        _fail([*self._taken, *self._waiting], self._refusal())
        self._waiting.clear()
        self._has_room.set()
        self._has_room = trio.Event()

    def _refusal(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"the last commit to stream {self.stream.name} is not settled")

    def _give_up(self, jobs: list[_Job], error: Exception) -> None:
        """Write nothing more, and let `run` fail."""
        _fail(jobs, error)
        self._stopped = True
        self._fault = error
        self._wake.set()

    def _finish(self, attempt: _Attempt[R]) -> None:
        if attempt.rows:
            self._publish(attempt.rows)
        for job, result in zip(attempt.jobs, attempt.results, strict=True):
            job.finish(outcome.Value(result))

    async def _record(self, tx: Tx, rows: Rows[R], generation: str) -> None:
        if self._transport.shared:
            await self._log.append(tx, self.committed, rows)
        await self._set_position(tx, generation, rows[-1][0])

    async def _set_position(self, tx: Tx, generation: str, position: int) -> None:
        await stream_log.set_position(tx, self.stream.name, self.writer, generation, position)

    def _publish(self, rows: Rows[R]) -> None:
        position = rows[-1][0]
        # There are no rows between its last commit and its position, so any reader between those
        # two has seen all earlier rows.
        batch = Batch(self.stream, self.writer, self.committed, position, rows)
        self.position = self.committed = position
        self._transport.publish(batch)

    def _on_batch(self, batch: Batch[R]) -> None:
        if batch.writer != self.writer and not self._busy:
            self._advance_to(batch.position)

    def _follow_others(self) -> None:
        seen = self._transport.feed.positions_of(self.stream).values()
        self._advance_to(max(seen, default=0))

    def _advance_to(self, position: int) -> None:
        # Called only with no transaction in flight; see the rules above.
        if position > self.position and not self._may_be_replaced():
            self.position = position
            self._transport.advance(self, position)


async def _nothing(tx: Tx, ids: StreamIds) -> tuple[None, Rows[Any]]:
    return None, []


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        job.finish(outcome.Error(error))


def _id_of(row: tuple[int, Any]) -> int:
    return row[0]
