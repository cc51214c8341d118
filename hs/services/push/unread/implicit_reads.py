"""Up to where users have read without a receipt, by joining and by sending; it follows the feed.

Rows of the stream `unread` are delivered before they are stored, so a read from the table may lack
marks that were delivered before it began. Each read is therefore completed with the marks that may
not be stored yet. They are listed immediately before the read: what is stored meanwhile, and no
longer listed afterwards, is in one of the two. Marks that are delivered during the read are noted
by the follower, as in `hs.repl.followers`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from hs.core.ids import RoomID, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.repl.followers import KeyFollower
from hs.storage.database import Database
from hs.storage.push import push_rules as storage

MAX_USERS: Final = 50_000
EVERYWHERE: Final = ""
NO_MARKS: Final[Mapping[str, int]] = {}
_Marks = dict[RoomID, dict[str, int]]
_Mark = tuple[RoomID, str, int]
UnstoredMarks = Callable[[UserID], Iterable[tuple[str, str, str, int]]]
"""Lists the (user, room, thread, stream ID) of a user that may not be stored yet."""


class ReadMarks:
    """The marks of users, by room and thread; the thread "" stands for all of the room."""

    def __init__(self, database: Database, unstored: UnstoredMarks) -> None:
        self._database = database
        self._unstored = unstored
        self._users: LruCache[UserID, _Marks] = LruCache("read_marks", max_entries=MAX_USERS)
        self._follower = KeyFollower(self._users, self._read, _with_mark)

    def of_room_nowait(self, user_id: UserID, room_id: RoomID) -> Mapping[str, int] | None:
        """Return a user's marks in a room; None if they are not in memory."""
        marks = self._users.get(user_id)
        return None if marks is None else marks.get(room_id, NO_MARKS)

    async def load(self, user_id: UserID) -> None:
        """Read a user's marks into memory, unless they are there."""
        if user_id not in self._users:
            await self._follower.get(user_id)

    def put(self, user_id: UserID, room_id: RoomID, thread_id: str, stream_id: int) -> None:
        """Note a mark; one that is lower than the mark that is there changes nothing."""
        self._follower.update(user_id, (room_id, thread_id, stream_id))

    def clear(self) -> None:
        """Have the marks of all users read again."""
        self._follower.invalidate_all()

    async def _read(self, user_ids: list[UserID]) -> dict[UserID, _Marks]:
        return {user_id: await self._read_user(user_id) for user_id in user_ids}

    async def _read_user(self, user_id: UserID) -> _Marks:
        marks: _Marks = {}
        for _, room_id, thread_id, stream_id in self._unstored(user_id):
            _with_mark(marks, (RoomID(room_id), thread_id, stream_id))
        for room_id, thread_id, stream_id in await self._database.read(storage.list_marks, user_id):
            _with_mark(marks, (RoomID(room_id), thread_id, stream_id))
        return marks


def _with_mark(marks: _Marks, mark: _Mark) -> _Marks:
    room_id, thread_id, stream_id = mark
    by_thread = marks.setdefault(room_id, {})
    by_thread[thread_id] = max(stream_id, by_thread.get(thread_id, stream_id))
    return marks
