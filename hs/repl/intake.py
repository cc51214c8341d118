"""Follows the writers of other processes: puts messages in order and repairs what was lost.

Messages may be lost, so each names the position before its rows. When that is not where this
process is, the rows between come from the log of commits, or from the writer's memory.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from hs.repl.feed import Batch, Feed
from hs.repl.message import Message
from hs.repl.recent_rows import RecentRows
from hs.repl.row_codec import decode_rows
from hs.repl.rpc_reply import RpcFailed, RpcUnavailable
from hs.repl.streams import CATALOGUE, Kind, StreamDef, Writers
from hs.storage import stream_log
from hs.storage.database import Database, DatabaseError, Tx
from hs.storage.stream_log import LoggedCommit

MAX_WAITING = 1000  # messages kept while a repair runs; older ones are repaired in their turn
LIMIT = 200
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 5.0

log = logging.getLogger(__name__)


class FeedLost(Exception):
    """This process was away for longer than commits are kept: it must start afresh."""


@attrs.define(eq=False)
class _Lane:
    """One writer of one stream; `waiting` holds the messages that came during a repair."""

    stream: StreamDef[Any]
    writer: str
    repairing: bool = False
    repairs: int = 0
    heard: int = 0  # the newest position that was told
    waiting: deque[Message] = attrs.Factory(lambda: deque(maxlen=MAX_WAITING))


@attrs.define(eq=False)
class Intake:
    """Brings the rows of other processes to this one's feed, each writer's in order."""

    _feed: Feed
    _instance: str
    _database: Database
    _recent: Callable[[str], RecentRows]
    _streams: Mapping[str, StreamDef[Any]] = attrs.Factory(
        lambda: {stream.name: stream for stream in CATALOGUE}
    )
    _lanes: dict[tuple[str, str], _Lane] = attrs.Factory(dict)
    _nursery: trio.Nursery | None = None
    _is_looking: bool = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run repairs until cancelled.

        Raises: FeedLost, in a group.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def begin(self, expected: Sequence[tuple[StreamDef[Any], str]]) -> None:
        """Start from where the tables are: what is older, this process will read from there."""
        known = {
            (stream, writer): position
            for stream, writer, position in await self._database.read(stream_log.positions)
        }
        for stream, writer in expected:
            if stream.kind is Kind.TABLE and writer != self._instance:
                self._feed.start_at(stream, writer, known.get((stream.name, writer), 0))

    def accept(self, message: Message) -> None:
        """Take a message of rows or of a position."""
        stream = self._streams.get(message.stream)
        if stream is None or message.writer == self._instance:
            return
        lane = self._lane(stream, message.writer)
        if message.position > lane.heard:
            lane.heard = message.position
        if lane.repairing:
            lane.waiting.append(message)
        elif not self._deliver(lane, message):
            lane.waiting.append(message)
            self._start_repair(lane)

    async def poll(self) -> None:
        """Look for what is new without messages."""
        for name, writer, position in await self._database.read(stream_log.positions):
            stream = self._streams.get(name)
            if stream is None or stream.kind is not Kind.TABLE or writer == self._instance:
                continue
            known = self._feed.position_of(stream, writer)
            if known is not None and position > known:
                lane = self._lane(stream, writer)
                lane.heard = max(lane.heard, position)
                self._start_repair(lane)
        for lane in list(self._lanes.values()):
            if lane.stream.kind is Kind.MEMORY:
                self._start_repair(lane)

    async def look(self) -> None:
        """Poll unless somebody does just now; never raises."""
        if self._is_looking:
            return
        self._is_looking = True
        try:
            await self.poll()
        except DatabaseError as error:
            log.warning("cannot look for changes in the database: %s", error)
        finally:
            self._is_looking = False

    def states(self) -> Iterator[tuple[str, str, int, int]]:
        """Give for each writer that was heard: stream, writer, how far behind, repairs begun."""
        for lane in self._lanes.values():
            known = self._feed.position_of(lane.stream, lane.writer)
            # Nothing is known of a memory writer before its first repair; then it may all be read.
            behind = 0 if known is None else max(0, lane.heard - known)
            yield lane.stream.name, lane.writer, behind, lane.repairs

    def _lane(self, stream: StreamDef[Any], writer: str) -> _Lane:
        lane = self._lanes.get((stream.name, writer))
        if lane is None:
            lane = self._lanes[stream.name, writer] = _Lane(stream, writer)
        return lane

    def _deliver(self, lane: _Lane, message: Message) -> bool:
        """Deliver a message, or ignore an old one; False when something is missing before it."""
        stream, writer = lane.stream, lane.writer
        known = self._feed.position_of(stream, writer)
        if known is None:
            if stream.kind is Kind.MEMORY:
                return False
            log.warning("%s writes the stream %s, unlike configured", writer, stream.name)
            known = message.prev
        if message.epoch > self._feed.epoch(stream, writer):
            return False
        if message.position <= known:
            return True
        if message.prev > known:
            return False
        rows: list[tuple[int, Any]] = []
        if self._feed.wants(stream):
            rows = decode_rows(stream, message.rows)
            if message.prev < known:
                rows = [row for row in rows if row[0] > known]
        self._feed.deliver(Batch(stream, writer, known, message.position, rows))
        return True

    def _start_repair(self, lane: _Lane) -> None:
        if not lane.repairing and self._nursery is not None:
            lane.repairing = True
            lane.repairs += 1
            self._nursery.start_soon(self._repair, lane)

    async def _repair(self, lane: _Lane) -> None:
        pause_s = FIRST_PAUSE_S
        while not await self._try_repair(lane, quiet=pause_s > FIRST_PAUSE_S):
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, LAST_PAUSE_S)
        waiting = list(lane.waiting)
        lane.waiting.clear()
        lane.repairing = False
        for message in waiting:
            self.accept(message)

    async def _try_repair(self, lane: _Lane, quiet: bool) -> bool:
        try:
            if lane.stream.writers is Writers.EVERY:
                return self._start_afresh(lane)
            if lane.stream.kind is Kind.MEMORY:
                return await self._repair_from_writer(lane)
            await self._repair_from_tables(lane)
        except (DatabaseError, RpcFailed, RpcUnavailable) as error:
            level = logging.DEBUG if quiet else logging.WARNING
            log.log(level, "stream %s of %s is late: %s", lane.stream.name, lane.writer, error)
            return False
        return True

    async def _repair_from_tables(self, lane: _Lane) -> None:
        stream, writer = lane.stream, lane.writer
        while True:
            known = self._feed.position_of(stream, writer) or 0
            newest, commits = await self._database.read(_read_commits, stream, writer, known)
            if newest > known and (not commits or commits[0].previous > known):
                raise FeedLost(f"commits of {writer} to {stream.name} after {known} are pruned")
            for commit in commits:
                rows = decode_rows(stream, commit.row_bytes) if self._feed.wants(stream) else []
                self._feed.deliver(Batch(stream, writer, known, commit.position, rows))
                known = commit.position
            if known >= newest:
                return

    def _start_afresh(self, lane: _Lane) -> bool:
        # Every instance writes such a stream, also those that nobody can call; who missed a row
        # drops all that it derived from them.
        if lane.waiting:
            stream, newest = lane.stream, lane.waiting[-1]
            lane.waiting.clear()
            self._feed.begin_epoch(stream, lane.writer, newest.epoch)
            rows = decode_rows(stream, newest.rows) if self._feed.wants(stream) else []
            self._feed.deliver(Batch(stream, lane.writer, 0, newest.position, rows, reset=True))
        return True

    async def _repair_from_writer(self, lane: _Lane) -> bool:
        stream, writer = lane.stream, lane.writer
        known = self._feed.position_of(stream, writer) or 0
        recent = await self._recent(writer).since(stream.name, known)
        if recent is None:
            return False
        self._feed.begin_epoch(stream, writer, recent.epoch)
        rows = decode_rows(stream, recent.rows)
        if recent.reset or recent.position > known:
            batch = Batch(stream, writer, recent.prev, recent.position, rows, recent.reset)
            self._feed.deliver(batch)
        return True


async def _read_commits(
    tx: Tx, stream: StreamDef[Any], writer: str, after: int
) -> tuple[int, list[LoggedCommit]]:
    # The position first: a commit in between is then found in the log, never missed by it.
    newest = (await stream_log.positions_of(tx, stream.name)).get(writer, 0)
    return newest, list(await stream_log.read(tx, stream.name, writer, after, LIMIT))
