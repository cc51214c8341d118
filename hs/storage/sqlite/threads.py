"""SQLite as a Database: one writer thread with group commit, and three reader threads.

- Writes: the writer thread takes all write units that are queued (up to MAX_GROUP) and commits
  them in one transaction, so a sync to disk (synchronous=FULL) costs once per group. A caller gets
  its result only after that COMMIT.
- Reads: two threads run short reads, one thread runs long reads, so long reads delay no short
  ones. A read begins its transaction when its turn comes: it sees every write whose caller has
  already returned.
- Cancellation: a short read and a write run to their end. A long read is interrupted. The lock
  `_interrupting` makes sure that only the intended unit is hit: `job.conn` is set only while the
  thread runs that unit. Interrupting affects only a running statement, so the unit also checks its
  `cancelled` flag before each statement; this covers units that are still in the queue.
- Files: before and after each group, and every WATCH_S, the writer thread checks that the file is
  still the one that was opened. If not, writes are refused, and reads go on from the open file.
  After a write that failed, `load` reports a fault until a write succeeds.
- Disks that hang: a statement that computes makes progress, one that waits for the disk does not.
  If a thread has made none for HANG_S, its units fail: reads with DatabaseHung, writes with
  CommitUnknown, since the disk may still do its work. If that concerns all threads of a queue, so
  do the units in the queue, which the thread then skips, and new ones are refused until it goes on.
- Closing: new units are refused first, in the trio thread, so that none is queued behind the end
  marker (None). Units already queued still run.
"""

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Final, ParamSpec, TypeVar

import outcome
import trio

from hs.lib.tally import Tally
from hs.storage.database import (
    CommitUnknown,
    DatabaseError,
    DatabaseHung,
    DatabaseLoad,
    DatabaseRefusal,
    DatabaseUnavailable,
    Unit,
)
from hs.storage.dialect import SQLITE
from hs.storage.sqlite.files import FileWatch, create_for_owner
from hs.storage.sqlite.progress import ThreadProgress
from hs.storage.sqlite.tx import BUSY_TIMEOUT_MS, SqliteTx, connect, run_read, run_unit, write_group

P = ParamSpec("P")
T = TypeVar("T")

READERS: Final = 2
MAX_GROUP: Final = 256
WATCH_S: Final = 2.0
# Longer than it takes to move a large write-ahead log into the main file.
HANG_S: Final = 60.0
LOOKS_PER_HANG: Final = 20

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_sqlite(
    path: Path | str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS, hang_s: float = HANG_S
) -> AsyncIterator["SqliteDatabase"]:
    """Open a database file, creating it if missing; on exit, finish the queued units.

    If another process holds the write lock, writes wait for it up to the busy timeout.

    Raises: DatabaseUnavailable.
    """
    database = SqliteDatabase(Path(path), busy_timeout_ms, hang_s)
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(database.start)
    try:
        yield database
    finally:
        # In the trio thread, so that no unit can be queued behind the end marker.
        database.refuse_new_units()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(database.stop)


class _Job:
    """A queued unit; `cancelled` and `conn` are shared with the trio task that may cancel it.

    `progress` is that of the thread that runs it, None in the queue. With `done` the task has its
    result.
    """

    __slots__ = ("call", "cancelled", "conn", "done", "progress", "queue", "task")

    def __init__(self, call: Callable[[SqliteTx], Any], queue: "_JobQueue") -> None:
        self.call = call
        self.queue = queue
        self.progress: ThreadProgress | None = None
        self.done = False
        self.task = trio.lowlevel.current_task()
        self.conn: sqlite3.Connection | None = None
        self.cancelled = False

    def is_cancelled(self) -> bool:
        return self.cancelled


_JobQueue = SimpleQueue[_Job | None]
_RaiseCancel = Callable[[], Any]  # an alias, because inner functions evaluate annotations


class SqliteDatabase:
    """A Database on threads and their queues; created by `open_sqlite`."""

    engine: Final = "sqlite"
    dialect: Final = SQLITE

    def __init__(self, path: Path, busy_timeout_ms: int, hang_s: float) -> None:
        self._busy_timeout_ms = busy_timeout_ms
        self._hang_s = hang_s
        self._path = path
        self._writes: _JobQueue = SimpleQueue()
        self._reads: _JobQueue = SimpleQueue()
        self._long_reads: _JobQueue = SimpleQueue()
        self._units = {kind: Tally() for kind in ("read", "snapshot", "write")}
        self._outstanding: set[_Job] = set()
        self._threads: list[tuple[threading.Thread, _JobQueue, ThreadProgress]] = []
        self._token = trio.lowlevel.current_trio_token()
        self._results = _ResultQueue(self._token)
        self._stuck: frozenset[ThreadProgress] = frozenset()
        self._stopped = threading.Event()
        # Held while a connection is interrupted or changes its job, and while jobs are given up.
        self._interrupting = threading.Lock()
        self._closed = False
        self._watch: FileWatch | None = None
        self._fault: str | None = None
        # Why the last transaction could not be written, for example because the disk is full.
        self._write_fault: str | None = None

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._submit("read", self._reads, unit, args, kwargs)
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._submit("snapshot", self._reads, unit, args, kwargs)
        return result

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._submit("snapshot", self._long_reads, unit, args, kwargs)
        return result

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._submit("write", self._writes, unit, args, kwargs)
        return result

    async def write_idempotent(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.write(unit, *args, **kwargs)

    def load(self) -> DatabaseLoad:
        waiting = sum(jobs.qsize() for jobs in (self._reads, self._long_reads, self._writes))
        threads = len(self._threads)
        used = min(threads, max(0, len(self._outstanding) - waiting))
        # Not looked up here: on a disk that hangs, this thread would hang as well.
        fault = _hang_fault(self._stuck) if self._stuck else self._fault or self._write_fault
        return DatabaseLoad(threads, used, threads, waiting, self._units, fault=fault)

    async def _submit(
        self,
        kind: str,
        jobs: _JobQueue,
        unit: Callable[..., Any],
        args: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        if self._is_stuck(jobs):
            raise DatabaseHung(_hang_fault(self._stuck))
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(lambda tx: run_unit(unit(tx, *args, **kwargs)), jobs)
        started_at = perf_counter()
        self._outstanding.add(job)
        jobs.put(job)
        raise_cancel: _RaiseCancel | None = None

        def abort(cancel: _RaiseCancel) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            if jobs is self._long_reads:
                raise_cancel = cancel
                self._interrupt(job)
            return trio.lowlevel.Abort.FAILED

        try:
            return await trio.lowlevel.wait_task_rescheduled(abort)
        except DatabaseError:
            if raise_cancel is not None:
                raise_cancel()
            raise
        finally:
            self._outstanding.discard(job)
            self._units[kind].add(perf_counter() - started_at)

    def _interrupt(self, job: _Job) -> None:
        with self._interrupting:
            job.cancelled = True
            if job.conn is not None:
                job.conn.interrupt()

    def _is_stuck(self, jobs: _JobQueue) -> bool:
        """Return whether all threads of a queue are stuck."""
        if not self._stuck:
            return False
        return all(progress in self._stuck for _, queue, progress in self._threads if queue is jobs)

    def _fail_stuck(self) -> None:
        """Fail the units of threads that are stuck, and those that wait for nothing else."""
        fault = _hang_fault(self._stuck)
        failed: list[tuple[_Job, DatabaseError]] = []
        with self._interrupting:
            for job in self._outstanding:
                is_running = job.progress is not None and job.progress in self._stuck
                is_waiting = job.progress is None and self._is_stuck(job.queue)
                if job.done or not (is_running or is_waiting):
                    continue
                job.done = True
                is_unknown = is_running and job.queue is self._writes
                failed.append((job, CommitUnknown(fault) if is_unknown else DatabaseHung(fault)))
        for job, error in failed:
            trio.lowlevel.reschedule(job.task, outcome.Error(error))

    def start(self) -> None:
        """Open the connections and start the threads."""
        try:
            create_for_owner(self._path)
            writer = connect(self._path, self._busy_timeout_ms)
            readers = [connect(self._path, self._busy_timeout_ms) for _ in range(READERS + 1)]
            for reader in readers:
                reader.execute("PRAGMA query_only = ON")
                # The writer rereads the same pages; readers rely on the system's page cache.
                reader.execute("PRAGMA cache_size = -2048")
        except (sqlite3.Error, OSError) as error:
            cause = (isinstance(error, OSError) and error.strerror) or error
            raise DatabaseUnavailable(f"cannot open {self._path}: {cause}") from error
        self._watch = FileWatch(self._path)
        self._start("sqlite writer", self._serve_writes, writer, self._writes)
        for reader in readers[:READERS]:
            self._start("sqlite reader", self._serve_reads, reader, self._reads)
        self._start("sqlite long reader", self._serve_reads, readers[READERS], self._long_reads)
        threading.Thread(target=self._watch_threads, name="sqlite watchdog", daemon=True).start()

    def _start(
        self,
        name: str,
        serve: Callable[[sqlite3.Connection, _JobQueue, ThreadProgress], None],
        conn: sqlite3.Connection,
        jobs: _JobQueue,
    ) -> None:
        progress = ThreadProgress(name, conn)
        thread = threading.Thread(target=serve, args=(conn, jobs, progress), name=name, daemon=True)
        self._threads.append((thread, jobs, progress))
        thread.start()

    def refuse_new_units(self) -> None:
        """Refuse units from now on with DatabaseUnavailable."""
        self._closed = True

    def stop(self) -> None:
        """Finish the queued units, then end the threads, the writer's last.

        The last connection to close then closes alone, and moves the WAL into the main file. If
        several closed at the same moment, each could leave that to another. A thread that is stuck
        is left behind.
        """
        writer, readers = self._threads[:1], self._threads[1:]
        for threads in (readers, writer):
            for _, jobs, _ in threads:
                jobs.put(None)
            for thread, _, progress in threads:
                while thread.is_alive() and progress not in self._stuck:
                    thread.join(self._hang_s / LOOKS_PER_HANG)
                if thread.is_alive():
                    log.error("leaving the thread %s behind, whose disk hangs", progress.name)
        self._stopped.set()

    # The methods below run in the threads.

    def _serve_reads(
        self, conn: sqlite3.Connection, jobs: _JobQueue, progress: ThreadProgress
    ) -> None:
        while (job := jobs.get()) is not None:
            progress.begin()
            with self._interrupting:
                is_given_up = job.done
                job.conn, job.progress = conn, progress
            if not is_given_up:
                result = outcome.capture(run_read, conn, job.call, job.is_cancelled)
                with self._interrupting:
                    job.conn = None
                self._results.put(job, result)
            progress.end()
        conn.close()

    def _serve_writes(
        self, conn: sqlite3.Connection, jobs: _JobQueue, progress: ThreadProgress
    ) -> None:
        while (group := _take_group(jobs)) is not None:
            progress.begin()
            with self._interrupting:
                group = [job for job in group if not job.done]
                for job in group:
                    job.progress = progress
            results = self._write_to_same_file(conn, group, progress)
            for job, result in zip(group, results, strict=True):
                self._results.put(job, result)
            progress.end()
        conn.close()

    def _watch_threads(self) -> None:
        """Look for threads that are stuck, until the database is closed."""
        while not self._stopped.wait(self._hang_s / LOOKS_PER_HANG):
            stuck = frozenset(
                progress for _, _, progress in self._threads if progress.is_stuck(self._hang_s)
            )
            if stuck and not self._stuck:
                log.critical("%s: refusing what it cannot do until it goes on", _hang_fault(stuck))
            elif self._stuck and not stuck:
                log.warning("the disk of the database works again")
            self._stuck = stuck
            if stuck:
                try:
                    self._token.run_sync_soon(self._fail_stuck, idempotent=True)
                except trio.RunFinishedError:
                    return

    def _write_to_same_file(
        self, conn: sqlite3.Connection, group: list[_Job], progress: ThreadProgress
    ) -> list[outcome.Outcome[Any]]:
        """Run a group of units, unless the database file was removed or replaced."""
        if fault := self._check_files():
            return [outcome.Error(DatabaseRefusal(fault)) for _ in group]
        if not group:
            return []
        results = write_group(conn, [_with_progress(job.call, progress) for job in group])
        self._note_results(results)
        if fault := self._check_files():
            return [outcome.Error(CommitUnknown(fault)) for _ in group]
        return results

    def _note_results(self, results: list[outcome.Outcome[Any]]) -> None:
        """Remember whether SQLite can write; log it when it changes."""
        if any(isinstance(result, outcome.Value) for result in results):
            if self._write_fault is not None:
                log.warning("the database can be written to again: %s", self._path)
            self._write_fault = None
            return
        for result in results:
            # Other errors are those of the unit, and tell nothing of the file.
            if isinstance(result, outcome.Error) and isinstance(result.error, DatabaseUnavailable):
                if self._write_fault is None:
                    log.critical("%s: %s", self._path, result.error)
                self._write_fault = str(result.error)

    def _check_files(self) -> str | None:
        """Return what happened to the files; log it when it changes."""
        assert self._watch is not None
        fault = self._watch.fault()
        if fault != self._fault:
            self._fault = fault
            if fault is None:
                log.warning("the database file is back, writing to it again: %s", self._path)
            else:
                log.critical(
                    "%s: refusing all writes until the file is back. Do not stop this process"
                    " before the data is saved, it still has the old file open (/proc/%d/fd)",
                    fault,
                    os.getpid(),
                )
        return fault


def _with_progress(
    call: Callable[[SqliteTx], Any], progress: ThreadProgress
) -> Callable[[SqliteTx], Any]:
    def run(tx: SqliteTx) -> Any:
        progress.tick()
        return call(tx)

    return run


def _hang_fault(stuck: Iterable[ThreadProgress]) -> str:
    names = ", ".join(sorted(progress.name for progress in stuck))
    return f"the disk of the database does not answer ({names})"


def _take_group(jobs: _JobQueue) -> list[_Job] | None:
    """Wait for a job; return it with all other queued jobs, up to MAX_GROUP.

    None means that the end marker was reached, an empty list that there was no job for WATCH_S.
    """
    group: list[_Job] = []
    try:
        job = jobs.get(timeout=WATCH_S)
    except Empty:
        return group
    if job is None:
        return None
    while job is not None:
        group.append(job)
        if len(group) == MAX_GROUP:
            return group
        try:
            job = jobs.get_nowait()
        except Empty:
            return group
    jobs.put(None)  # the end marker was taken with this group; put it back
    return group


class _ResultQueue:
    """Passes results to trio tasks; many results need only one wake-up of the trio thread.

    `_take` clears `_wakeup_pending` before it empties the queue. A result that is put while the
    queue is being emptied is thus either taken now or causes a new wake-up; none is lost.
    """

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._pending: deque[tuple[_Job, outcome.Outcome[Any]]] = deque()
        self._wakeup_pending = False

    def put(self, job: _Job, result: outcome.Outcome[Any]) -> None:
        """Queue the result of a job; may be called from any thread."""
        self._pending.append((job, result))
        if not self._wakeup_pending:
            self._wakeup_pending = True
            try:
                self._token.run_sync_soon(self._take)
            except trio.RunFinishedError:
                log.debug("discarding a database result: the trio run has ended")

    def _take(self) -> None:
        self._wakeup_pending = False
        while self._pending:
            job, result = self._pending.popleft()
            if not job.done:
                job.done = True
                trio.lowlevel.reschedule(job.task, result)
