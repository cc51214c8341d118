"""The writing end of table streams: group commit, then publication, then the answers.

A commit runs in the writer's own task, so a waiter that is cancelled never stops one half way.
Each writer has one transaction in flight; while it runs the next batch gathers.
"""

import logging
import secrets
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Generic, TypeVar

import attrs
import outcome
import trio

from hs.core.errors import Unavailable
from hs.repl.feed import Batch
from hs.repl.row_codec import encode_rows
from hs.repl.streams import StreamDef
from hs.repl.transport import Transport
from hs.storage import stream_log
from hs.storage.database import (
    CommitUnknown,
    Database,
    DatabaseConflict,
    DatabaseUnavailable,
    RowMissing,
    Tx,
)
from hs.storage.stream_log import LoggedCommit

R = TypeVar("R")
T = TypeVar("T")
Rows = list[tuple[int, R]]
Unit = Callable[..., Coroutine[Any, Any, tuple[T, list[tuple[int, R]]]]]  # unit(tx, ids, *args)

MAX_WAITING = 5000  # jobs; a writer that is full makes its callers wait
MAX_BATCH = 500
FLUSH_S = 10.0  # to write what waits when the process stops
SETTLE_S = 60.0  # to learn whether a commit that lost its answer was done
SETTLE_PAUSE_S = 0.5
SETTLED_ATTEMPTS = 3
LOG_KEPT_MS = 15 * 60 * 1000
PRUNE_EVERY_MS = 60 * 1000

log = logging.getLogger(__name__)


def _new_life() -> str:
    return secrets.token_hex(8)


class WriterStopped(Unavailable):
    """The writer is not running any more; nothing was written."""


class WriterReplaced(Unavailable):
    """Another process writes under this name by now; nothing was written."""

    def __init__(self, stream: str, writer: str) -> None:
        super().__init__(f"another process writes the stream {stream} as {writer} by now")


@attrs.define(eq=False)
class StreamIds:
    """Gives stream ids within one transaction; one statement serves a batch."""

    _tx: Tx
    _stream: str
    _jobs_left: int = 1
    _held: list[int] = attrs.Factory(list)  # descending

    async def one(self) -> int:
        """Give an id above all given before."""
        if not self._held:
            await self._reserve(1)
        return self._held.pop()

    async def many(self, count: int) -> list[int]:
        """Give ascending ids, above all given before, not always consecutive."""
        if len(self._held) < count:
            await self._reserve(count - len(self._held))
        return [self._held.pop() for _ in range(count)]

    async def _reserve(self, count: int) -> None:
        # Jobs that follow in this batch will most likely want one each.
        fresh = await self._tx.next_ids(self._stream, count + self._jobs_left - 1)
        self._held = [*reversed(fresh), *self._held]

    def begin_job(self, jobs_left: int) -> None:
        """Note how many jobs of the batch, this one included, may still want ids."""
        self._jobs_left = jobs_left


@attrs.define(eq=False)
class _Job:
    unit: Unit[Any, Any]
    args: tuple[Any, ...]
    done: trio.Event = attrs.Factory(trio.Event)
    result: outcome.Outcome[Any] | None = None

    def finish(self, result: outcome.Outcome[Any]) -> None:
        self.result = result
        self.done.set()


@attrs.define(eq=False)
class _Attempt(Generic[R]):
    """A batch; results and rows are those of the last run of its transaction.

    `number` counts, from 1, how often it was found that none of it had been written.
    """

    jobs: list[_Job]
    number: int
    results: list[Any] = attrs.Factory(list)
    rows: list[tuple[int, R]] = attrs.Factory(list)


@attrs.define(eq=False)
class TableWriter(Generic[R]):
    """The only writer of a table stream under one instance's name.

    When `run` fails the process must end: nobody knows any more what was written. Of two
    processes that both take themselves for this writer, only the one that started last can commit.
    What was committed, and in how many seconds, is counted for metrics.
    """

    stream: StreamDef[R]
    writer: str
    _database: Database
    _transport: Transport
    _now_ms: Callable[[], int]
    position: int = 0  # it will never write at or below this again
    committed: int = 0  # its last published row
    epoch: int = 0
    commits: int = 0
    jobs_committed: int = 0
    rows_committed: int = 0
    commit_s: float = 0.0
    _waiting: list[_Job] = attrs.Factory(list)
    _wake: trio.Event = attrs.Factory(trio.Event)
    _room: trio.Event = attrs.Factory(trio.Event)
    _busy: bool = False
    _stopped: bool = False
    _fault: Exception | None = None
    _life: str = attrs.field(factory=_new_life)
    _pruned_ms: int = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait for the next transaction."""
        return len(self._waiting)

    async def write(self, unit: Unit[T, R], *args: Any) -> T:
        """Run `unit(tx, ids, *args)` in a write transaction, shared with others that wait.

        The unit gives (result, rows with their ids, ascending). Returns the result once the rows
        are committed and this process's feed has delivered them. The unit may run more than once.
        Raises: what the unit raised; WriterStopped; DatabaseUnavailable.
        """
        while len(self._waiting) >= MAX_WAITING and not self._stopped:
            await self._room.wait()
        if self._stopped:
            raise WriterStopped(self.stream.name)
        job = _Job(unit, args)
        self._waiting.append(job)
        self._wake.set()
        await job.done.wait()
        assert job.result is not None
        result: T = job.result.unwrap()
        return result

    async def write_now(self, unit: Unit[T, R], *args: Any) -> T:
        """As `write`, but at once in the caller's task, which is the only one that writes.

        For a caller that groups commits by itself: it saves two switches of tasks. The caller
        shields itself from cancellation.
        """
        if self._stopped:
            raise WriterStopped(self.stream.name)
        assert not self._busy
        job = _Job(unit, args)
        self._busy = True
        try:
            await self._write_batch([job])
        finally:
            self._busy = False
            self._follow_others()
        assert job.result is not None
        result: T = job.result.unwrap()
        return result

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is asked for until cancelled; then write what still waits, and stop."""
        known = await self._database.write(
            stream_log.take_over, self.stream.name, self.writer, self._life
        )
        self.committed = known.get(self.writer, 0)
        # Ids only grow, so whatever anybody has committed is below what this writer will write.
        self.position = max(known.values(), default=0)
        self._transport.attach(self)
        self._transport.feed.subscribe(self.stream, self._heard)
        task_status.started()
        try:
            while True:
                await self._wake.wait()
                with trio.CancelScope(shield=True):
                    await self._write_waiting()
                if self._fault is not None:
                    raise self._fault
        finally:
            self._stopped = True
            self._room.set()
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._write_waiting()
            _fail(self._waiting, WriterStopped(self.stream.name))

    def since(self, after: int) -> Batch[R] | None:
        """Say that the rows are in the tables."""
        return None

    async def _write_waiting(self) -> None:
        while self._waiting and self._fault is None:
            jobs = self._waiting[:MAX_BATCH]
            del self._waiting[:MAX_BATCH]
            self._room.set()
            self._room = trio.Event()
            self._busy = True
            try:
                await self._write_batch(jobs)
            finally:
                self._busy = False
        self._wake = trio.Event()
        self._follow_others()

    async def _write_batch(self, jobs: list[_Job], number: int = 1) -> None:
        attempt: _Attempt[R] = _Attempt(jobs, number)
        began = perf_counter()
        try:
            await self._database.write(self._transaction, attempt)
        except CommitUnknown as error:
            await self._settle(attempt, error)
        except RowMissing:
            self._give_up(jobs, WriterReplaced(self.stream.name, self.writer))
        except DatabaseUnavailable as error:
            _fail(jobs, error)
        except Exception as error:  # noqa: BLE001 - it goes to whoever asked for the write
            if len(jobs) == 1:
                _fail(jobs, error)
                return
            # Halves again and again, so that only the guilty fails.
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
            await self._record(tx, rows)

    async def _settle(self, attempt: _Attempt[R], error: CommitUnknown) -> None:
        """Find out by the position in the table whether a commit was done, and do it if not."""
        if not attempt.rows:
            _fail(attempt.jobs, error)
            return
        try:
            with trio.fail_after(SETTLE_S):
                position = await self._settled_position()
        except (WriterReplaced, trio.TooSlowError) as unsettled:
            error.__cause__ = unsettled
            self._give_up(attempt.jobs, error)
            return
        if position == attempt.rows[-1][0]:
            self._finish(attempt)
        elif attempt.number < SETTLED_ATTEMPTS:
            await self._write_batch(attempt.jobs, attempt.number + 1)
        else:
            _fail(attempt.jobs, error)

    async def _settled_position(self) -> int:
        name, next_life = self.stream.name, _new_life()
        while True:
            try:
                position = await self._database.write(
                    stream_log.begin_anew, name, self.writer, self._life, next_life
                )
            except (DatabaseUnavailable, DatabaseConflict):
                await trio.sleep(SETTLE_PAUSE_S)
                continue
            if position is None:
                raise WriterReplaced(name, self.writer)
            self._life = next_life
            return position

    def _give_up(self, jobs: list[_Job], error: Exception) -> None:
        """Write nothing any more, and have `run` fail."""
        _fail(jobs, error)
        self._stopped = True
        self._fault = error
        self._wake.set()

    def _finish(self, attempt: _Attempt[R]) -> None:
        if attempt.rows:
            self._publish(attempt.rows)
        for job, result in zip(attempt.jobs, attempt.results, strict=True):
            job.finish(outcome.Value(result))

    async def _record(self, tx: Tx, rows: Rows[R]) -> None:
        position = rows[-1][0]
        name, writer = self.stream.name, self.writer
        if self._transport.shared:
            await self._log(tx, rows)
        await stream_log.set_position(tx, name, writer, self._life, position)

    async def _log(self, tx: Tx, rows: Rows[R]) -> None:
        slim = self.stream.slim
        encoded = encode_rows([(number, slim(row)) for number, row in rows])
        commit = LoggedCommit(rows[-1][0], self.committed, encoded)
        now_ms = self._now_ms()
        if now_ms - self._pruned_ms > PRUNE_EVERY_MS:
            self._pruned_ms = now_ms
            await stream_log.prune(tx, now_ms - LOG_KEPT_MS)
        await stream_log.append(tx, self.stream.name, self.writer, commit, now_ms)

    def _publish(self, rows: Rows[R]) -> None:
        position = rows[-1][0]
        # Between its last commit and its position there are no rows, whatever a reader has seen.
        batch = Batch(self.stream, self.writer, self.committed, position, rows)
        self.position = self.committed = position
        self._transport.publish(batch)

    def _heard(self, batch: Batch[R]) -> None:
        if batch.writer != self.writer and not self._busy:
            self._stay_silent_until(batch.position)

    def _follow_others(self) -> None:
        seen = self._transport.feed.positions_of(self.stream).values()
        self._stay_silent_until(max(seen, default=0))

    def _stay_silent_until(self, position: int) -> None:
        # With no transaction in flight, every id this writer will ever get is above all that
        # others have committed: it can say so, and readers need no vector.
        if position > self.position:
            self.position = position
            self._transport.advance(self, position)


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        job.finish(outcome.Error(error))


def _id_of(row: tuple[int, Any]) -> int:
    return row[0]
