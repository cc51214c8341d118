"""Unread counts of users, in each process, exact up to all events that the process has seen.

Where the numbers come from:

- Tables: for each event that notifies, one row for all users with the default rules
  (`push_outcomes`) and one for each user with another outcome (`push_exceptions`); up to where
  users have read by joining and sending (`push_marks`). The evaluating process writes them
  (`hs.services.push.evaluation`), together with the position of the evaluation.
- The stream `unread`: the same rows, announced before they are stored. Rows that may not be stored
  yet are held in `StoredProgress`.
- Memory: `RecentNotifications` has all notifications of a room above its floor,
  `ReadPositionReader` has how far users have read, `CountCache` the counts computed from both.

Rules:

- Up to the floor of a room the database counts, above it the recent notifications do. When the
  room is taken up, the floor is the highest stored position of any writer: the room may have been
  another's before, and nobody knows whose position covers its last notification. If one that is
  not stored, or arrives later, is below that, the floor is lowered or the room dropped. When the
  floor rises later, the database is asked only after the results up to it are stored. The same
  goes for redacted events: before the database is asked about a room, the removal of its redacted
  events is stored.
- What is read from a table is completed with the unstored rows, which are listed before the read.
- A read from the database may be overtaken by receipts, redactions and dropped caches. Counts
  carry the read position and the version that they belong to; one that does not fit any more when
  the read returns is computed again.
- The streams are followed from the first question on: most processes are never asked. What was
  published before is in the tables when the evaluating process has told its progress.
- When the stream `unread` begins anew, everything in memory is dropped, because the new life of
  the evaluation announces all results again that the former had not stored.
- While the evaluating process cannot be reached, counts are answered from what is stored, and
  dropped when it answers again (`progress_states`). When it is slow, or evaluates what it missed
  before its start, responses wait for half a second, and after one wait in vain not at all for some
  time (`evaluation_lag`). What they lack then, later ones find by `changed_since`.

Spec: client-server API, Receiving notifications.
"""

from collections.abc import Collection
from typing import Final

from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.push.unread import RoomCounts
from hs.core.streams import EVENTS, UNREAD, EventRow, UnreadRow
from hs.repl.feed import Batch, Feed
from hs.services.ephemeral.receipts import Receipts
from hs.services.push.evaluation.evaluation_duty import EvaluationStore
from hs.services.push.unread.count_cache import CountCache
from hs.services.push.unread.count_changes import CountChanges
from hs.services.push.unread.evaluation_lag import EvaluationLag
from hs.services.push.unread.read_positions import ReadPosition, ReadPositionReader
from hs.services.push.unread.recent_notifications import RecentNotifications
from hs.services.push.unread.stored_progress import StoredProgress
from hs.services.push.unread.user_room_count import UserRoomCount
from hs.storage.database import Database

MAX_TRIES: Final = 10


class UnreadCounts:
    """The unread counts of one process."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        receipts: Receipts,
        store: EvaluationStore,
    ) -> None:
        self._feed = feed
        self._lag = EvaluationLag()
        self._progress = StoredProgress(database, store)
        self._recent = RecentNotifications()
        self._positions = ReadPositionReader(database, receipts, self._progress)
        self._counts = CountCache(database, self._positions, self._recent)
        self._changes = CountChanges()
        self._is_following = False

    async def counts(
        self, user_id: UserID, room_ids: Collection[RoomID], upto: VectorPosition | None = None
    ) -> dict[RoomID, RoomCounts]:
        """Return a user's counts by room, without rooms where nothing is unread.

        All events that this process has seen are counted, and therefore those up to `upto`.
        """
        await self.catch_up()
        shown: dict[RoomID, RoomCounts] = {}
        missing: list[RoomID] = []
        for room_id in room_ids:
            count = self._counts.get_nowait(user_id, room_id)
            if count is None:
                missing.append(room_id)
            elif count.threads:
                shown[room_id] = count.shown()
        if missing:
            for room_id, count in (await self._count(user_id, missing)).items():
                if count.threads:
                    shown[room_id] = count.shown()
        return shown

    async def catch_up(self) -> VectorPosition | None:
        """Wait until all events that this process has seen are evaluated, but not for long.

        Return the position up to which counts are exact from now on; None if it is all of them.
        """
        self._follow()
        if not self._progress.is_known:
            await self._learn_progress()
        await self._lag.wait()
        return self._lag.evaluated

    def changed_since(self, position: VectorPosition) -> set[RoomID] | None:
        """Return the rooms whose counts the evaluation of events after a position changed.

        Return None if that is not known.
        """
        return self._changes.since(position)

    async def badge(self, user_id: UserID, room_ids: Collection[RoomID], by_room: bool) -> int:
        """Return the number for a client's icon: of unread rooms, or of unread notifications."""
        counts = await self.counts(user_id, room_ids)
        notifications = [count.total().notifications for count in counts.values()]
        return sum(map(bool, notifications)) if by_room else sum(notifications)

    async def read_positions(
        self, user_id: UserID, room_ids: Collection[RoomID]
    ) -> dict[RoomID, tuple[ReadPosition, int]]:
        """Return how far a user has read rooms, and the stream ID of the join (0 if unknown)."""
        await self._learn_progress()
        await self._load(user_id, room_ids)
        positions: dict[RoomID, tuple[ReadPosition, int]] = {}
        for room_id in room_ids:
            read = self._positions.of_nowait(user_id, room_id)
            if read is not None:
                positions[room_id] = (read, self._positions.joined_at_nowait(user_id, room_id))
        return positions

    async def has_read(
        self, user_id: UserID, room_id: RoomID, thread_id: str, stream_id: int
    ) -> bool:
        """Return whether a user has read an event, as far as this process knows."""
        read = self._positions.of_nowait(user_id, room_id)
        if read is None:
            await self._load(user_id, [room_id])
            read = self._positions.of_nowait(user_id, room_id)
        return read is not None and stream_id <= read.of_thread(thread_id)

    # Loading

    async def _count(
        self, user_id: UserID, room_ids: Collection[RoomID]
    ) -> dict[RoomID, UserRoomCount]:
        """Count rooms with the help of the database."""
        counts: dict[RoomID, UserRoomCount] = {}
        for _ in range(MAX_TRIES):
            await self._load(user_id, room_ids)
            counts = await self._counts.ask_database(user_id, room_ids)
            is_complete = True
            for room_id in room_ids:
                count = self._counts.get_nowait(user_id, room_id)
                if count is None:
                    # The user read, or an event was redacted, while the database was asked.
                    is_complete = False
                else:
                    counts[room_id] = count
            if is_complete:
                return counts
        if counts.keys() >= set(room_ids):
            # They were right when the database was asked; a client that reads on this fast asks
            # again.
            return counts
        raise RuntimeError("what unread counts need does not stay in memory")

    async def _load(self, user_id: UserID, room_ids: Collection[RoomID]) -> None:
        """Get into memory what counting needs, and into tables what the database will count."""
        self._follow()
        await self._positions.load(user_id, room_ids)
        if not self._progress.is_known or self._must_be_stored_first(room_ids):
            await self._learn_progress()
        for room_id in room_ids:
            if self._recent.get(room_id) is None:
                self._take_up(room_id)

    def _take_up(self, room_id: RoomID) -> None:
        notifications = self._progress.unstored_notifications(room_id)
        floor = self._progress.position.most()
        if notifications:
            floor = min(floor, notifications[0].stream_id - 1)
        self._recent.take_up(room_id, floor, notifications)

    def _must_be_stored_first(self, room_ids: Collection[RoomID]) -> bool:
        """Return whether the database lacks results that it will be asked about."""
        floors: dict[str, int] = {}
        for room_id in room_ids:
            recent = self._recent.get(room_id)
            if recent is not None:
                floors[room_id] = recent.floor
        progress = self._progress
        return progress.has_unstored_removal(room_ids) or progress.has_unstored_notification(floors)

    async def _learn_progress(self) -> None:
        self._follow()
        if not self._progress.is_known:
            # Events from before this process began may not be evaluated either.
            for writer, position in self._feed.positions_of(EVENTS).items():
                self._lag.note_seen(writer, position)
        if await self._progress.learn():
            self._forget()
            self._lag.wait_again()
        self._lag.note_evaluated(self._progress.position)
        if self._progress.is_known:
            self._changes.begin(self._progress.position)

    def _forget(self) -> None:
        self._recent.clear()
        self._positions.clear()
        self._counts.clear()
        self._changes.clear()

    # Following the feed

    def _follow(self) -> None:
        if not self._is_following:
            self._is_following = True
            self._feed.subscribe(EVENTS, self._on_events)
            self._feed.subscribe(UNREAD, self._on_unread)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if batch.rows:
            self._lag.note_seen(batch.writer, batch.rows[-1][0])

    def _on_unread(self, batch: Batch[UnreadRow]) -> None:
        if batch.reset:
            self._forget()
            self._progress.reset()
            self._lag.reset()
        for position, row in batch.rows:
            self._on_row(position, row)

    def _on_row(self, position: int, row: UnreadRow) -> None:
        for unread in row.unread:
            self._recent.add(unread)
        for mark in row.marks:
            self._positions.add_mark(mark)
        for room_id, stream_id in row.removed:
            self._recent.remove(RoomID(room_id), stream_id)
        self._changes.add(row)
        self._progress.add(position, row)
        self._lag.advance(row.writer, row.upto)
