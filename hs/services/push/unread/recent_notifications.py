"""What happened lately in rooms, in memory: from a room's floor on, everything that notifies.

Below the floor the database knows. A room that is not held has seen nothing since this process
follows, or was dropped; it is taken up again at the position that is evaluated then.
"""

from collections.abc import Callable
from typing import Final

import attrs

from hs.core.ids import RoomID, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.repl.rows import Unread

MAX_ROOMS: Final = 50_000
MAX_ROWS: Final = 400
"""Of one room; then the older half goes."""


@attrs.define(eq=False)
class Tail:
    """What notifies in one room, by ascending numbers, all of it above `floor`.

    `version` is another whenever something was taken away.
    """

    floor: int
    version: int
    rows: list[Unread] = attrs.Factory(list)

    def add(self, unread: Unread) -> None:
        """Note what came."""
        if unread.stream_id <= self.floor or self.holds(unread.stream_id):
            return
        self.rows.append(unread)
        if len(self.rows) > MAX_ROWS:
            half = MAX_ROWS // 2
            self.floor = self.rows[half - 1].stream_id
            del self.rows[:half]

    def holds(self, stream_id: int) -> bool:
        """Tell whether an event is among the rows, which only the last ones are asked for."""
        return bool(self.rows) and stream_id <= self.rows[-1].stream_id

    def remove(self, stream_id: int) -> None:
        """Forget an event."""
        self.rows = [row for row in self.rows if row.stream_id != stream_id]

    def count(
        self, user_id: UserID, after: int, read: Callable[[str], int]
    ) -> dict[str, tuple[int, int]]:
        """Count by thread what is above a number and above what is read of its thread."""
        counts: dict[str, tuple[int, int]] = {}
        for row in reversed(self.rows):
            if row.stream_id <= after:
                break
            if row.sender == user_id or row.stream_id <= read(row.thread_id):
                continue
            notify, highlight = int(row.notify), int(row.highlight and row.notify)
            for other, more_notify, more_highlight in row.exceptions:
                if other == user_id:
                    notify += more_notify
                    highlight += more_highlight
            if notify or highlight:
                notified, highlighted = counts.get(row.thread_id, (0, 0))
                counts[row.thread_id] = (notified + notify, highlighted + highlight)
        return counts


class Tails:
    """The tails of rooms."""

    def __init__(self) -> None:
        self._rooms: LruCache[RoomID, Tail] = LruCache("unread_tails", max_entries=MAX_ROOMS)
        self._version = 0

    def get(self, room_id: RoomID) -> Tail | None:
        """Give a room's tail, if it is held."""
        return self._rooms.get(room_id)

    def take_up(self, room_id: RoomID, floor: int) -> Tail:
        """Begin to hold a room."""
        self._version += 1
        tail = Tail(floor, self._version)
        self._rooms.put(room_id, tail)
        return tail

    def add(self, unread: Unread) -> None:
        """Note what came in a room that is held."""
        room_id = RoomID(unread.room_id)
        if room_id in self._rooms:
            tail = self._rooms.get(room_id)
            assert tail is not None
            tail.add(unread)

    def remove(self, room_id: RoomID, stream_id: int) -> None:
        """Forget an event; whoever counted with it counts again."""
        if room_id not in self._rooms:
            return
        tail = self._rooms.get(room_id)
        assert tail is not None
        self._version += 1
        tail.version = self._version
        tail.remove(stream_id)

    def clear(self) -> None:
        """Hold nothing any more."""
        self._rooms.clear()
