"""The writer of a table stream that any process may write, for changes that are few.

Rules:

- All processes write under one name, ANY_PROCESS. A commit takes its positions from the one row of
  the stream in `stream_positions`, which it locks until its end. So positions are in the order of
  commits, and whoever has seen a position can find all rows up to it in the tables.
- A commit knows the position before it (`prev`). It is published after this process has received
  all earlier commits, so every feed gets the rows of all processes in order. They arrive within
  milliseconds; if a process ended between its commit and its message, they are read from the log.
- The outcome of a commit may be unknown: the connection broke, or the caller was cancelled. The
  next write first looks for rows that were committed and not published.
- Nothing but the lock in the database connects the processes: each can write while all others,
  the main process too, are down.
"""

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from hs.core.errors import Unavailable
from hs.core.stream_def import ANY_PROCESS, StreamDef
from hs.repl.commit_log import CommitLog
from hs.repl.feed import Batch
from hs.repl.freshness import Look, catch_up
from hs.repl.transport import Transport
from hs.repl.writers import Unit
from hs.storage import stream_log
from hs.storage.database import CommitUnknown, Database, Tx

R = TypeVar("R")
T = TypeVar("T")

WRITE_S: Final = 30.0
"""Maximum time of a write. Another process that is stopped during its commit keeps the lock."""
PUBLISH_S: Final = 20.0
"""Maximum time until earlier commits of other processes have arrived."""

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class SharedStreamIds:
    """The positions for one transaction; the first one locks the stream until its end."""

    _tx: Tx
    _stream: str

    async def next_id(self) -> int:
        """Return the next position of the stream."""
        return await stream_log.next_position(self._tx, self._stream)


@attrs.define(eq=False)
class SharedTableWriter(Generic[R]):
    """This process's writer of a table stream that any process may write.

    `look` looks for rows of other processes without messages; None if there are no others.
    `commits`, `jobs_committed`, `rows_committed` and `commit_s` are metrics.
    """

    stream: StreamDef[R]
    _database: Database
    _transport: Transport
    _now_ms: Callable[[], int]
    _look: Look | None = None
    commits: int = 0
    rows_committed: int = 0
    commit_s: float = 0.0
    epoch: int = attrs.field(default=0, init=False)
    writer: str = attrs.field(default=ANY_PROCESS, init=False)
    _log: CommitLog[R] = attrs.field(init=False)
    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _is_settled: bool = attrs.field(default=True, init=False)

    def __attrs_post_init__(self) -> None:
        self._log = CommitLog(self.stream, ANY_PROCESS, self._now_ms)

    @property
    def position(self) -> int:
        """The position up to which this process has received the rows of all processes."""
        return self._transport.feed.position_of(self.stream, ANY_PROCESS) or 0

    @property
    def committed(self) -> int:
        """The same as `position`: this process does not know what others have committed since."""
        return self.position

    @property
    def jobs_committed(self) -> int:
        """Number of changes that were committed: each has a transaction of its own."""
        return self.commits

    @property
    def waiting(self) -> int:
        """Number of changes that wait for the next transaction."""
        return self._lock.statistics().tasks_waiting

    async def attach(self) -> None:
        """Begin at the position in the database, unless this process follows the stream already."""
        feed = self._transport.feed
        if feed.position_of(self.stream, ANY_PROCESS) is None:
            feed.start_at(self.stream, ANY_PROCESS, await self._database.read(self._stored))
        self._transport.attach(self)

    async def write(self, unit: Unit[T, R], *args: Any) -> T:
        """Run `unit(tx, ids, *args)` in a write transaction and publish its rows.

        The unit returns a result and rows with ascending IDs, and may run more than once. It takes
        IDs after all that it reads, because they lock the stream. This returns the result after the
        rows were committed and delivered to this process's feed.

        Raises: what the unit raised; DatabaseUnavailable; Unavailable, if another process has the
        lock for too long.
        """
        with trio.move_on_after(WRITE_S):
            return await self._write(unit, args)
        raise Unavailable(f"stream {self.stream.name} could not be written in time")

    async def _write(self, unit: Unit[T, R], args: tuple[Any, ...]) -> T:
        async with self._lock:
            if not self._is_settled:
                await self._settle()
                self._is_settled = True
            began = perf_counter()
            try:
                result, batch = await self._database.write(self._transaction, unit, args)
            except (CommitUnknown, trio.Cancelled):
                self._is_settled = False
                raise
            self.commits += 1
            self.commit_s += perf_counter() - began
            if batch is not None:
                self.rows_committed += len(batch.rows)
                await self._publish(batch)
                self._is_settled = self.position >= batch.position
            return result

    def since(self, after: int) -> Batch[R] | None:
        """Return None: the rows are in the tables."""
        return None

    async def _transaction(
        self, tx: Tx, unit: Unit[T, R], args: tuple[Any, ...]
    ) -> tuple[T, Batch[R] | None]:
        result, rows = await unit(tx, SharedStreamIds(tx, self.stream.name), *args)
        if not rows:
            return result, None
        prev = rows[0][0] - 1
        if self._transport.shared:
            await self._log.append(tx, prev, rows)
        return result, Batch(self.stream, ANY_PROCESS, prev, rows[-1][0], rows)

    async def _publish(self, batch: Batch[R]) -> None:
        if batch.prev > self.position:
            with trio.move_on_after(PUBLISH_S, shield=True):
                await self._wait_for_earlier(batch.prev)
        if batch.prev == self.position:
            self._transport.publish(batch)
        elif batch.position <= self.position:
            # Read from the log, together with the earlier rows. The others do the same.
            self._transport.advance(self, self.position)
        else:
            log.warning(
                "committed rows of stream %s up to %d are delivered late: earlier ones have not "
                "arrived",
                self.stream.name,
                batch.position,
            )

    async def _wait_for_earlier(self, position: int) -> None:
        if self._look is None:
            await self._settle()
        else:
            await catch_up(self._transport.feed, [(self.stream, ANY_PROCESS, position)], self._look)

    async def _settle(self) -> None:
        """Deliver rows that were committed and not published."""
        if self._look is not None:
            await self._look(())
            return
        stored = await self._database.read(self._stored)
        if stored > self.position:
            # Without other processes there is no log. Readers find the rows in the tables.
            lost: Batch[R] = Batch(self.stream, ANY_PROCESS, 0, stored, [], reset=True)
            self._transport.publish(lost)

    async def _stored(self, tx: Tx) -> int:
        positions = await stream_log.stream_positions(tx, self.stream.name)
        return positions.get(ANY_PROCESS, 0)
