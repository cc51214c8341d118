"""Up to where users have read without a receipt: by joining and by sending, kept by the feed."""

from collections.abc import Mapping
from typing import Final

from hs.core.ids import RoomID, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.storage.database import Database
from hs.storage.push import push_rules as storage

MAX_USERS: Final = 50_000
EVERYWHERE: Final = ""
NO_MARKS: Final[Mapping[str, int]] = {}
_Marks = dict[RoomID, dict[str, int]]


class ReadMarks:
    """The marks of users, by room and thread; the thread "" stands for all of the room."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users: LruCache[UserID, _Marks] = LruCache("read_marks", max_entries=MAX_USERS)
        self._flights: SingleFlight[UserID] = SingleFlight()
        self._reading: dict[UserID, list[tuple[RoomID, str, int]]] = {}

    def of_room_nowait(self, user_id: UserID, room_id: RoomID) -> Mapping[str, int] | None:
        """Return a user's marks in a room; None if they are not in memory."""
        marks = self._users.get(user_id)
        return None if marks is None else marks.get(room_id, NO_MARKS)

    async def load(self, user_id: UserID) -> None:
        """Get a user's marks into memory; everything told before must be in the database."""
        if user_id not in self._users:
            await self._flights.run(user_id, self._read, user_id)

    def put(self, user_id: UserID, room_id: RoomID, thread_id: str, stream_id: int) -> None:
        """Note a mark."""
        if user_id in self._users:
            marks = self._users.get(user_id)
            assert marks is not None
            _put(marks, room_id, thread_id, stream_id)
        if user_id in self._reading:
            self._reading[user_id].append((room_id, thread_id, stream_id))

    def clear(self) -> None:
        """Forget everything."""
        self._users.clear()

    async def _read(self, user_id: UserID) -> None:
        news = self._reading[user_id] = []
        try:
            rows = await self._database.read(storage.list_marks, user_id)
        finally:
            del self._reading[user_id]
        marks: _Marks = {}
        for room_id, thread_id, stream_id in rows:
            _put(marks, RoomID(room_id), thread_id, stream_id)
        for news_room_id, thread_id, stream_id in news:
            _put(marks, news_room_id, thread_id, stream_id)
        self._users.put(user_id, marks)


def _put(marks: _Marks, room_id: RoomID, thread_id: str, stream_id: int) -> None:
    of_room = marks.setdefault(room_id, {})
    of_room[thread_id] = max(stream_id, of_room.get(thread_id, stream_id))
