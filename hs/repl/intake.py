"""Follows the writers of other processes: delivers their messages in order, and fills gaps.

Messages may be lost, repeated or late. Rules:

- Each message names the position before its rows (`prev`). It is delivered only if this process
  has reached that position; rows that were delivered before are left out. So the feed gets each
  row of a writer once, in order. Messages that arrive together and follow each other are one
  delivery: what subscribers do for each delivery, such as waking clients, is done once.
- Otherwise there is a gap, and a *repair* fills it: from the log of commits for table streams,
  from the writer's memory, by RPC, for memory streams. Each writer of each stream has a *lane*
  with at most one repair at a time. Messages that arrive during a repair wait in the lane and are
  accepted after it, when most of them turn out to be old.
- A gap at the end is noticed by the announcements of positions (and, without messages, by `poll`).
- A position from the table is read before the log. A commit in between is then found in the log;
  the other way round it would be skipped.
- When a slot passes to another process, the rows of its keys that the earlier holder wrote come
  before those that the new one writes. The stream of slots says up to where (a *barrier*), and
  each message says how much of that stream comes before it. A barrier only makes rows wait for
  older ones, so lanes never wait for each other in a circle.
- Rows of a memory stream have no barriers. Those about keys that another process than their writer
  holds are left out: they come late, from one that has lost the keys.
- A new epoch of a memory writer makes every known position of it worthless. The writer's reply
  says so with a reset. An earlier life of the writer, which does not know yet that it was replaced,
  may still answer: its reply is ignored, and the writer asked again later.
- Some processes that write a stream of EVERY process cannot be called. A reader that notices a gap
  drops what it derived from the writer (a reset). A caller whose owner has replied, and whose rows
  are late, has no later message to go on with: it asks the owner for the rows, and drops nothing.
- If the log no longer has the rows after this process's position, the process must restart
  (FeedLost), because caches cannot be corrected any more. Of a stream that any process may write,
  the feed delivers a reset instead: nobody may have been there to publish a commit.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import msgspec
import trio

from hs.core.errors import ProcessUnavailable
from hs.core.stream_def import ANY_PROCESS, StreamDef, StreamKind, StreamWriters
from hs.core.streams import CATALOGUE, SLOTS, SlotsRow
from hs.lib.tasks import BackgroundNursery
from hs.repl.calls.reply import RpcFailed
from hs.repl.feed import Batch, Feed
from hs.repl.freshness import TargetPositions
from hs.repl.message import Message, MessageKind
from hs.repl.process_reports import FollowedWriter
from hs.repl.recent_rows import RecentRows
from hs.repl.row_codec import decode_rows
from hs.repl.slots.table import SlotTable
from hs.storage import stream_log, stream_slots
from hs.storage.database import Database, DatabaseError, Tx
from hs.storage.stream_log import LoggedCommit

MAX_WAITING = 1000  # messages in a lane during a repair; the next repair fills what is dropped
MAX_COMMITS = 200  # read from the log at a time
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 5.0

log = logging.getLogger(__name__)


class FeedLost(Exception):
    """The log no longer has the rows that this process missed, so it must restart."""


@attrs.frozen
class _Barrier:
    """Rows after `begin` wait until those of `writer` up to `end` were delivered."""

    begin: int
    writer: str
    end: int


@attrs.define(eq=False)
class _Lane:
    """One writer of one stream; `waiting` are the messages that arrived during a repair."""

    stream: StreamDef[Any]
    writer: str
    repairing: bool = False
    repairs: int = 0
    announced: int = 0  # the highest position in any message
    epoch: int = 0  # the latest in any message
    waiting: deque[Message] = attrs.Factory(lambda: deque(maxlen=MAX_WAITING))
    barriers: list[_Barrier] = attrs.Factory(list)

    def add_barriers(self, begin: int, ends: Sequence[tuple[str, int]]) -> None:
        """Let rows after `begin` wait for those of other writers up to their ends."""
        known = {(each.writer, each.end) for each in self.barriers if each.begin <= begin}
        self.barriers += [
            _Barrier(begin, writer, end)
            for writer, end in dict.fromkeys(ends)
            if writer != self.writer and (writer, end) not in known
        ]


@attrs.define(eq=False)
class Intake:
    """Delivers the rows of other processes to this one's feed, each writer's in order.

    `slots` is None if no slots pass to other processes.
    """

    _feed: Feed
    _instance: str
    _database: Database
    _recent: Callable[[str], RecentRows]
    _streams: Mapping[str, StreamDef[Any]] = attrs.Factory(
        lambda: {stream.name: stream for stream in CATALOGUE}
    )
    _slots: SlotTable | None = None
    _lanes: dict[tuple[str, str], _Lane] = attrs.Factory(dict)
    _background: BackgroundNursery = attrs.field(factory=BackgroundNursery, init=False)
    _is_looking: bool = False

    def __attrs_post_init__(self) -> None:
        self._feed.subscribe(SLOTS, self._add_barriers)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run repairs until cancelled.

        Raises: FeedLost, in a group.
        """
        await self._background.run(task_status)

    async def begin(self, expected: Sequence[tuple[StreamDef[Any], str]]) -> None:
        """Start at the positions in the database; services read older rows from the tables."""
        known = {
            (stream, writer): position
            for stream, writer, position in await self._database.read(stream_log.list_positions)
        }
        for stream, writer in expected:
            if stream.kind is StreamKind.TABLE and writer != self._instance:
                self._feed.start_at(stream, writer, known.get((stream.name, writer), 0))
        if self._slots is not None:
            self._slots.note_all(await self._database.read(stream_slots.list_slots))

    def accept(self, *messages: Message) -> None:
        """Deliver messages with rows or positions, or keep those of a lane while it is repaired."""
        lanes: dict[tuple[str, str], list[Message]] = {}
        for message in messages:
            if message.stream in self._streams and message.writer != self._instance:
                lanes.setdefault((message.stream, message.writer), []).append(message)
        for (name, writer), following in lanes.items():
            self._accept(self._lane(self._streams[name], writer), following)

    def _accept(self, lane: _Lane, messages: list[Message]) -> None:
        for message in messages:
            if message.position > lane.announced:
                lane.announced = message.position
            if message.epoch > lane.epoch:
                lane.epoch = message.epoch
        delivered = 0 if lane.repairing else self._deliver(lane, messages)
        if delivered < len(messages):
            lane.waiting.extend(messages[delivered:])
            self._start_repair(lane)

    async def poll(self) -> None:
        """Repair every lane that is behind, as far as that can be found out without messages.

        Raises: DatabaseError.
        """
        for name, writer, position in await self._database.read(stream_log.list_positions):
            stream = self._streams.get(name)
            if stream is None or stream.kind is not StreamKind.TABLE or writer == self._instance:
                continue
            known = self._feed.position_of(stream, writer)
            if known is not None and position > known:
                lane = self._lane(stream, writer)
                lane.announced = max(lane.announced, position)
                self._start_repair(lane)
        for lane in list(self._lanes.values()):
            if lane.stream.kind is StreamKind.MEMORY:
                self._start_repair(lane)

    async def look(self, targets: TargetPositions = ()) -> None:
        """Call `poll`, unless a call is running; errors of the database are logged only.

        `targets` are positions that writers are known to have reached.
        """
        for stream, writer, position in targets:
            lane = self._lane(stream, writer)
            lane.announced = max(lane.announced, position)
        if self._is_looking:
            return
        self._is_looking = True
        try:
            await self.poll()
        except DatabaseError as error:
            log.warning("cannot read the positions of other processes: %s", error)
        finally:
            self._is_looking = False

    def followed(self) -> Iterator[FollowedWriter]:
        """Yield how far each known writer is followed."""
        for lane in self._lanes.values():
            known = self._feed.position_of(lane.stream, lane.writer)
            yield FollowedWriter(
                stream=lane.stream.name,
                writer=lane.writer,
                position=known or 0,
                # The position of a memory writer is not known before the first repair of its lane.
                lag=0 if known is None else max(0, lane.announced - known),
                repairs=lane.repairs,
            )

    def _lane(self, stream: StreamDef[Any], writer: str) -> _Lane:
        lane = self._lanes.get((stream.name, writer))
        if lane is None:
            lane = self._lanes[stream.name, writer] = _Lane(stream, writer)
        return lane

    def _deliver(self, lane: _Lane, messages: list[Message]) -> int:
        """Deliver messages and ignore old ones; return how many come before the first gap."""
        stream, writer = lane.stream, lane.writer
        known = self._feed.position_of(stream, writer)
        if known is None:
            if stream.kind is StreamKind.MEMORY:
                return 0
            if stream.writers is not StreamWriters.ANY:
                log.warning("%s writes stream %s but is not configured to", writer, stream.name)
            known = messages[0].prev
        epoch, has_readers = self._feed.epoch(stream, writer), self._feed.has_subscribers(stream)
        needs_plain = self._feed.needs_plain(stream)
        begin, rows, count = known, list[tuple[int, Any]](), 0
        for message in messages:
            if message.epoch > epoch or message.follows(needs_plain) > known < message.position:
                break
            is_new = message.position > known
            # What an old message comes after is repaired, too, but no repair of its own lane is
            # needed: it would end at once and begin again, as long as the other one fails.
            if not self._may_follow(lane, message.position, message.slots) and is_new:
                break
            if is_new:
                has_rows = message.kind is MessageKind.ROWS
                if has_rows and (needs_plain or (has_readers and not message.plain)):
                    try:
                        rows += self._of_holder(lane, _rows_after(stream, message, known))
                    except msgspec.DecodeError:  # the repair leaves them out, and says so
                        break
                known = message.position
            count += 1
        if known > begin:
            self._feed.deliver(Batch(stream, writer, begin, known, rows))
        return count

    def _start_repair(self, lane: _Lane) -> None:
        if not lane.repairing and self._background.nursery is not None:
            lane.repairing = True
            lane.repairs += 1
            self._background.nursery.start_soon(self._repair, lane)

    async def _repair(self, lane: _Lane) -> None:
        pause_s = FIRST_PAUSE_S
        while not await self._try_repair(lane, is_retry=pause_s > FIRST_PAUSE_S):
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, LAST_PAUSE_S)
        waiting = list(lane.waiting)
        lane.waiting.clear()
        lane.repairing = False
        self.accept(*waiting)

    async def _try_repair(self, lane: _Lane, is_retry: bool) -> bool:
        try:
            if lane.stream.writers is StreamWriters.EVERY:
                return await self._repair_of_any_process(lane)
            if lane.stream.kind is StreamKind.MEMORY:
                return await self._repair_from_writer(lane)
            return await self._repair_from_tables(lane)
        except (DatabaseError, RpcFailed, ProcessUnavailable) as error:
            is_retried = lane.stream.writers is not StreamWriters.EVERY
            log.log(
                logging.DEBUG if is_retry else logging.WARNING,
                "cannot fill a gap in stream %s of %s%s: %s",
                lane.stream.name,
                lane.writer,
                ", retrying" if is_retried else "",
                error,
            )
            if is_retried:
                return False
            # The process may be gone for good: the next caller that waits for its rows retries.
            lane.announced = self._feed.position_of(lane.stream, lane.writer) or 0
            return True

    async def _repair_from_tables(self, lane: _Lane) -> bool:
        stream, writer = lane.stream, lane.writer
        while True:
            known = self._feed.position_of(stream, writer) or 0
            newest, slots, commits = await self._database.read(_read_commits, stream, writer, known)
            if newest > known and (not commits or commits[0].previous > known):
                if stream.writers is not StreamWriters.ANY:
                    raise FeedLost(f"commits of {writer} to {stream.name} after {known} are pruned")
                known = commits[0].previous if commits else newest
                self._feed.deliver(Batch(stream, writer, 0, known, [], reset=True))
            for commit in commits:
                if not self._may_follow(lane, commit.position, slots):
                    return False
                rows = self._decode(lane, commit.row_bytes)
                self._feed.deliver(Batch(stream, writer, known, commit.position, rows))
                known = commit.position
            if known >= newest:
                return True

    def _add_barriers(self, batch: Batch[SlotsRow]) -> None:
        changes = [row for _, row in batch.rows if row.holder != self._instance]
        for row in changes:
            for name, holder, begin in row.begins:
                lane = self._lane(self._streams[name], holder)
                for ended, before, end in row.ends:
                    if ended == name:
                        # The holder before may have written nothing since it got the slot.
                        waits = self._lane(lane.stream, before).barriers
                        ends = [(before, end), *((each.writer, each.end) for each in waits)]
                        lane.add_barriers(begin, ends)

    def _may_follow(self, lane: _Lane, position: int, slots: int) -> bool:
        """Return whether all that rows up to a position come after was delivered.

        If not, this repairs the lanes that lack it.
        """
        if slots > (self._feed.position_of(SLOTS, ANY_PROCESS) or 0):
            self._start_repair(self._lane(SLOTS, ANY_PROCESS))
            return False
        if not lane.barriers:
            return True
        lane.barriers = [
            barrier
            for barrier in lane.barriers
            if (self._feed.position_of(lane.stream, barrier.writer) or 0) < barrier.end
        ]
        ahead = [barrier for barrier in lane.barriers if barrier.begin < position]
        for barrier in ahead:
            # This process delivers its own rows itself, though it may have hung since the commit.
            if barrier.writer != self._instance:
                self._start_repair(self._lane(lane.stream, barrier.writer))
        return not ahead

    async def _repair_of_any_process(self, lane: _Lane) -> bool:
        # Every process writes such a stream, including those without an RPC listener. A reader
        # that missed a row drops what it derived from the writer and goes on with the newest one.
        stream, writer, asked_for = lane.stream, lane.writer, 0
        if lane.waiting:
            newest = lane.waiting[-1]
            lane.waiting.clear()
            self._feed.begin_epoch(stream, writer, newest.epoch)
            rows = self._decode(lane, newest.rows)
            self._feed.deliver(Batch(stream, writer, 0, newest.position, rows, reset=True))
            return True
        while lane.announced > max(asked_for, self._feed.position_of(stream, writer) or 0):
            # The position came with the reply to a call, so the writer has an RPC listener. Its
            # memory has the rows that this process lacks, so nothing else is dropped. Another
            # reply may come meanwhile.
            asked_for = lane.announced
            await self._repair_from_writer(lane)
        return True

    async def _repair_from_writer(self, lane: _Lane) -> bool:
        stream, writer = lane.stream, lane.writer
        known = self._feed.position_of(stream, writer) or 0
        recent = await self._recent(writer).since(stream.name, known)
        if recent is None or recent.epoch < lane.epoch:
            return False
        rows = self._decode(lane, recent.rows)
        held = self._of_holder(lane, rows)
        if self._slots is not None and len(held) < len(rows):
            # The writer may know of a change of slots that this process does not know yet.
            self._slots.note_all(await self._database.read(stream_slots.list_slots))
            held = self._of_holder(lane, rows)
        self._feed.begin_epoch(stream, writer, recent.epoch)
        if recent.reset or recent.position > known:
            self._feed.deliver(
                Batch(stream, writer, recent.prev, recent.position, held, reset=recent.reset)
            )
        return True

    def _of_holder(self, lane: _Lane, rows: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Leave out rows of a memory stream about keys that another process holds."""
        stream, slots = lane.stream, self._slots
        key_of = stream.owner_key
        if key_of is None or slots is None or not slots.has_slots(stream):
            return rows
        return [row for row in rows if slots.holder(stream.name, key_of(row[1])) == lane.writer]

    def _decode(self, lane: _Lane, encoded: bytes | msgspec.Raw) -> list[tuple[int, Any]]:
        """Decode rows; leave out those of a commit that cannot be decoded.

        Otherwise they would end this process, and again after each restart.
        """
        if not self._feed.has_subscribers(lane.stream):
            return []
        try:
            return decode_rows(lane.stream, encoded)
        except msgspec.DecodeError as error:
            name, writer = lane.stream.name, lane.writer
            log.error("leaving out rows of stream %s of %s, not decodable: %s", name, writer, error)
            return []


def _rows_after(stream: StreamDef[Any], message: Message, position: int) -> list[tuple[int, Any]]:
    rows = decode_rows(stream, message.rows)
    return rows if message.prev == position else [row for row in rows if row[0] > position]


async def _read_commits(
    tx: Tx, stream: StreamDef[Any], writer: str, after: int
) -> tuple[int, int, list[LoggedCommit]]:
    # The position first, so that a commit in between is found in the log and not skipped.
    newest = (await stream_log.stream_positions(tx, stream.name)).get(writer, 0)
    commits = list(await stream_log.read(tx, stream.name, writer, after, MAX_COMMITS))
    slots = 0
    if stream.writers is StreamWriters.SHARDED:
        # The commits come after at most this much of the stream of slots.
        slots = (await stream_log.stream_positions(tx, SLOTS.name)).get(ANY_PROCESS, 0)
    return newest, slots, commits
