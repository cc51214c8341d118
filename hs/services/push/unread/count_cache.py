"""The unread counts that this process has computed, by user and room."""

from collections.abc import Iterable
from typing import Final

from hs.core.ids import RoomID, UserID
from hs.core.relations import MAIN_TIMELINE
from hs.lib.caching.lru_cache import LruCache
from hs.services.push.unread.read_positions import ReadPosition, ReadPositionReader
from hs.services.push.unread.recent_notifications import RecentInRoom, RecentNotifications
from hs.services.push.unread.user_room_count import UserRoomCount
from hs.storage.database import Database
from hs.storage.push import unread_counts as storage
from hs.storage.push.unread_counts import ReadThread, UnreadSpan

MAX_COUNTS: Final = 200_000


class CountCache:
    """Counts of users in rooms, brought up to date when they are asked for."""

    def __init__(
        self, database: Database, positions: ReadPositionReader, recent: RecentNotifications
    ) -> None:
        self._database = database
        self._positions = positions
        self._recent = recent
        self._counts: LruCache[tuple[UserID, RoomID], UserRoomCount] = LruCache(
            "unread", max_entries=MAX_COUNTS
        )

    def get_nowait(self, user_id: UserID, room_id: RoomID) -> UserRoomCount | None:
        """Return a count that is up to date; None if the database has to be asked."""
        recent = self._recent.get(room_id)
        if recent is None:
            return None
        count = self._counts.get((user_id, room_id))
        read = self._positions.of_nowait(user_id, room_id, None if count is None else count.read)
        if read is None:
            return None
        if count is not None and count.update(recent, read):
            return count
        if read.everywhere < recent.floor:
            return None
        count = _empty_count(user_id, read, recent)
        count.update(recent, read)
        self._counts.put((user_id, room_id), count)
        return count

    async def ask_database(
        self, user_id: UserID, room_ids: Iterable[RoomID]
    ) -> dict[RoomID, UserRoomCount]:
        """Count what is below the floors of rooms, by one unit of work.

        Rooms are left out if something that counting needs is not in memory. By the time of the
        return a count may be outdated: `get_nowait` tells.
        """
        counts: dict[RoomID, UserRoomCount] = {}
        spans: list[UnreadSpan] = []
        read_threads: list[ReadThread] = []
        for room_id in room_ids:
            recent = self._recent.get(room_id)
            read = self._positions.of_nowait(user_id, room_id)
            if recent is not None and read is not None:
                counts[room_id] = _empty_count(user_id, read, recent)
                if read.everywhere < recent.floor:
                    main = read.of_thread(MAIN_TIMELINE)
                    spans.append(UnreadSpan(room_id, read.everywhere, main, recent.floor))
                    read_threads += _read_threads(room_id, read)
        if spans:
            for counted_room_id, thread_id, notify, highlight in await self._database.read(
                storage.count_unread, user_id, spans, read_threads
            ):
                if notify or highlight:
                    counts[RoomID(counted_room_id)].threads[thread_id] = (notify, highlight)
        for room_id, count in counts.items():
            self._counts.put((user_id, room_id), count)
        return counts

    def clear(self) -> None:
        """Forget all counts."""
        self._counts.clear()


def _empty_count(user_id: UserID, read: ReadPosition, recent: RecentInRoom) -> UserRoomCount:
    return UserRoomCount(user_id, read, recent.floor, recent.version)


def _read_threads(room_id: RoomID, read: ReadPosition) -> list[ReadThread]:
    """Return the threads of which more is read than of the room."""
    return [
        ReadThread(room_id, thread_id, upto)
        for thread_id, upto in read.threads.items()
        if upto > read.everywhere and thread_id != MAIN_TIMELINE
    ]
