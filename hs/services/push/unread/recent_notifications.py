"""Recent notifications of rooms, in memory: everything above the floor of each room.

The database knows what is below the floor. A room that is not held has had no notification since
this process follows the stream `unread`, or was dropped; it is taken up again with a floor up to
which the database is complete.
"""

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from hs.core.ids import RoomID, UserID
from hs.core.streams import Unread
from hs.lib.caching.lru_cache import LruCache

MAX_ROOMS: Final = 50_000
MAX_ROWS: Final = 400
"""Of one room; beyond that the older half is dropped."""


@attrs.define(eq=False)
class RecentInRoom:
    """The notifications of one room above the stream ID `floor`, in ascending order.

    `version` changes whenever a notification is removed, and is unique in the process.
    """

    floor: int
    version: int
    rows: list[Unread] = attrs.Factory(list)

    @property
    def last(self) -> int:
        """The stream ID of the latest notification, or the floor."""
        return self.rows[-1].stream_id if self.rows else self.floor

    def add(self, unread: Unread) -> None:
        """Add a notification, unless it is known."""
        if unread.stream_id <= self.last:
            return
        self.rows.append(unread)
        if len(self.rows) > MAX_ROWS:
            half = MAX_ROWS // 2
            self.floor = self.rows[half - 1].stream_id
            del self.rows[:half]

    def remove(self, stream_id: int, version: int) -> None:
        """Remove the notification of an event, known or not."""
        self.rows = [row for row in self.rows if row.stream_id != stream_id]
        self.version = version

    def count(
        self, user_id: UserID, after: int, read_up_to: Callable[[str], int]
    ) -> dict[str, tuple[int, int]]:
        """Count a user's (notifications, highlights) by thread.

        Only events above `after`, and above what is read of their thread, are counted.
        """
        counts: dict[str, tuple[int, int]] = {}
        for row in reversed(self.rows):
            if row.stream_id <= after:
                break
            if row.sender == user_id or row.stream_id <= read_up_to(row.thread_id):
                continue
            notify, highlight = int(row.notify), int(row.highlight and row.notify)
            for exception_user_id, more_notify, more_highlight in row.exceptions:
                if exception_user_id == user_id:
                    notify += more_notify
                    highlight += more_highlight
            if notify or highlight:
                notified, highlighted = counts.get(row.thread_id, (0, 0))
                counts[row.thread_id] = (notified + notify, highlighted + highlight)
        return counts


class RecentNotifications:
    """The recent notifications of the rooms that were asked for lately."""

    def __init__(self) -> None:
        self._rooms: LruCache[RoomID, RecentInRoom] = LruCache(
            "unread_tails", max_entries=MAX_ROOMS
        )
        self._version = 0

    def get(self, room_id: RoomID) -> RecentInRoom | None:
        """Return a room's notifications, if they are held."""
        return self._rooms.get(room_id)

    def take_up(self, room_id: RoomID, floor: int, notifications: Iterable[Unread]) -> None:
        """Begin to hold a room, with the notifications above the floor, in ascending order."""
        recent = RecentInRoom(floor, self._next_version())
        for unread in notifications:
            recent.add(unread)
        self._rooms.put(room_id, recent)

    def add(self, unread: Unread) -> None:
        """Add a notification to its room, if that is held.

        The room is dropped if the notification is not above its floor: another writer of events,
        which was ahead when the room was taken up, has set that.
        """
        room_id = RoomID(unread.room_id)
        recent = self._held(room_id)
        if recent is None:
            return
        if unread.stream_id <= recent.floor:
            self._rooms.pop(room_id)
        else:
            recent.add(unread)

    def remove(self, room_id: RoomID, stream_id: int) -> None:
        """Remove the notification of an event; counts that include it no longer hold."""
        recent = self._held(room_id)
        if recent is not None:
            recent.remove(stream_id, self._next_version())

    def clear(self) -> None:
        """Hold no room any more."""
        self._rooms.clear()

    def _held(self, room_id: RoomID) -> RecentInRoom | None:
        # Most rows are of rooms that are not held; those do not count as misses.
        return self._rooms.get(room_id) if room_id in self._rooms else None

    def _next_version(self) -> int:
        self._version += 1
        return self._version
