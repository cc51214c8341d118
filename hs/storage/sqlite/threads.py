"""SQLite behind the Database Protocol: one writer thread with group commit, some readers.

All write units that wait are put into one transaction, a savepoint each, so that full syncing
to disk costs once per batch. Units never suspend here: they are driven straight through.
"""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Final, ParamSpec, TypeVar

import outcome
import trio

from hs.lib.tally import Tally
from hs.storage.database import DatabaseError, DatabaseUnavailable, Load, Unit
from hs.storage.dialect import SQLITE
from hs.storage.sqlite.tx import BUSY_TIMEOUT_MS, SqliteTx, connect, drive, read_once, write_group

P = ParamSpec("P")
T = TypeVar("T")

READERS: Final = 2
MAX_GROUP: Final = 256

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_sqlite(
    path: Path | str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS
) -> AsyncIterator["SqliteDatabase"]:
    """Open a database file, made when missing; close it after the units under way.

    Another process that writes to it is waited for up to the busy timeout.

    Raises: DatabaseUnavailable.
    """
    database = SqliteDatabase(Path(path), busy_timeout_ms)
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(database.start)
    try:
        yield database
    finally:
        # In this thread, so that no unit can be put behind the end of its queue.
        database.refuse_new_units()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(database.stop)


class _Job:
    """A unit on its way; `given_up` and `conn` tell a cancelling trio task how far it is."""

    __slots__ = ("call", "conn", "given_up", "task")

    def __init__(self, call: Callable[[SqliteTx], Any]) -> None:
        self.call = call
        self.task = trio.lowlevel.current_task()
        self.conn: sqlite3.Connection | None = None
        self.given_up = False

    def is_given_up(self) -> bool:
        return self.given_up


_Jobs = SimpleQueue[_Job | None]
_RaiseCancel = Callable[[], Any]  # named: inner functions evaluate their annotations


class SqliteDatabase:
    """The threads and their queues; use `open_sqlite`."""

    engine: Final = "sqlite"
    dialect: Final = SQLITE

    def __init__(self, path: Path, busy_timeout_ms: int) -> None:
        self._busy_timeout_ms = busy_timeout_ms
        self._path = path
        self._writes: _Jobs = SimpleQueue()
        self._reads: _Jobs = SimpleQueue()
        self._long_reads: _Jobs = SimpleQueue()
        self._units = {kind: Tally() for kind in ("read", "snapshot", "write")}
        self._asked = 0
        self._threads: list[tuple[threading.Thread, _Jobs]] = []
        self._answers = _Answers(trio.lowlevel.current_trio_token())
        # Held while a connection is interrupted, so that only the job meant is hit.
        self._interrupting = threading.Lock()
        self._closed = False

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._ask("read", self._reads, unit, args, kwargs)
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._ask("snapshot", self._reads, unit, args, kwargs)
        return result

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._ask("snapshot", self._long_reads, unit, args, kwargs)
        return result

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._ask("write", self._writes, unit, args, kwargs)
        return result

    def load(self) -> Load:
        waiting = sum(jobs.qsize() for jobs in (self._reads, self._long_reads, self._writes))
        threads = len(self._threads)
        used = min(threads, max(0, self._asked - waiting))
        return Load(threads, used, threads, waiting, self._units)

    async def _ask(
        self, kind: str, jobs: _Jobs, unit: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(lambda tx: drive(unit(tx, *args, **kwargs)))
        began = perf_counter()
        self._asked += 1
        jobs.put(job)
        raise_cancel: _RaiseCancel | None = None

        def abort(cancel: _RaiseCancel) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            if jobs is self._long_reads:
                raise_cancel = cancel
                self._give_up(job)
            return trio.lowlevel.Abort.FAILED

        try:
            return await trio.lowlevel.wait_task_rescheduled(abort)
        except DatabaseError:
            if raise_cancel is not None:
                raise_cancel()
            raise
        finally:
            self._asked -= 1
            self._units[kind].add(perf_counter() - began)

    def _give_up(self, job: _Job) -> None:
        with self._interrupting:
            job.given_up = True
            if job.conn is not None:
                job.conn.interrupt()

    def start(self) -> None:
        """Open the connections and start the threads."""
        try:
            writer = connect(self._path, self._busy_timeout_ms)
            readers = [connect(self._path, self._busy_timeout_ms) for _ in range(READERS + 1)]
            for reader in readers:
                reader.execute("PRAGMA query_only = ON")
                # The writer's pages are touched again and again; these are mostly the system's.
                reader.execute("PRAGMA cache_size = -2048")
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"cannot open {self._path}: {error}") from error
        self._start("sqlite writer", self._serve_writes, writer, self._writes)
        for reader in readers[:READERS]:
            self._start("sqlite reader", self._serve_reads, reader, self._reads)
        self._start("sqlite long reader", self._serve_reads, readers[READERS], self._long_reads)

    def _start(
        self,
        name: str,
        serve: Callable[[sqlite3.Connection, _Jobs], None],
        conn: sqlite3.Connection,
        jobs: _Jobs,
    ) -> None:
        thread = threading.Thread(target=serve, args=(conn, jobs), name=name, daemon=True)
        self._threads.append((thread, jobs))
        thread.start()

    def refuse_new_units(self) -> None:
        """Raise DatabaseUnavailable to whoever asks from now on."""
        self._closed = True

    def stop(self) -> None:
        """Finish the units that wait, then end the threads; the writer's last.

        So the last connection to close is alone, and leaves everything in the one file: of several
        that close at the same moment each may leave that to another.
        """
        writer, readers = self._threads[:1], self._threads[1:]
        for threads in (readers, writer):
            for _, jobs in threads:
                jobs.put(None)
            for thread, _ in threads:
                thread.join()

    # Below: in the threads.

    def _serve_reads(self, conn: sqlite3.Connection, jobs: _Jobs) -> None:
        while (job := jobs.get()) is not None:
            with self._interrupting:
                job.conn = conn
            answer = outcome.capture(read_once, conn, job.call, job.is_given_up)
            with self._interrupting:
                job.conn = None
            self._answers.put(job.task, answer)
        conn.close()

    def _serve_writes(self, conn: sqlite3.Connection, jobs: _Jobs) -> None:
        while group := _gather(jobs):
            answers = write_group(conn, [job.call for job in group])
            for job, answer in zip(group, answers, strict=True):
                self._answers.put(job.task, answer)
        conn.close()


def _gather(jobs: _Jobs) -> list[_Job]:
    """Wait for a job and take all that wait with it; nothing means the end."""
    group: list[_Job] = []
    job = jobs.get()
    while job is not None:
        group.append(job)
        if len(group) == MAX_GROUP:
            return group
        try:
            job = jobs.get_nowait()
        except Empty:
            return group
    if group:
        jobs.put(None)  # seen too early: the end comes after this group
    return group


class _Answers:
    """Results on their way back to trio, many in one wake-up."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._waiting: deque[tuple[trio.lowlevel.Task, outcome.Outcome[Any]]] = deque()
        self._woken = False

    def put(self, task: trio.lowlevel.Task, answer: outcome.Outcome[Any]) -> None:
        """Give a task its answer; from any thread."""
        self._waiting.append((task, answer))
        if not self._woken:
            self._woken = True
            try:
                self._token.run_sync_soon(self._take)
            except trio.RunFinishedError:
                log.debug("an answer came after the end of the run")

    def _take(self) -> None:
        self._woken = False
        while self._waiting:
            task, answer = self._waiting.popleft()
            trio.lowlevel.reschedule(task, answer)
