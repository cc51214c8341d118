"""How far users have read rooms: by receipts, and by joining and sending."""

from collections.abc import Collection, Mapping

import attrs

from hs.core.ids import RoomID, UserID
from hs.services.ephemeral.receipts import Receipts
from hs.services.ephemeral.room_receipts import RoomReceipts
from hs.services.push.unread.implicit_reads import EVERYWHERE, NO_MARKS, ReadMarks
from hs.services.push.unread.stored_progress import StoredProgress
from hs.storage.database import Database


@attrs.frozen
class ReadPosition:
    """The stream IDs of events up to which a user has read a room, in all and by thread.

    The other fields tell cheaply whether it still holds.
    """

    everywhere: int
    threads: Mapping[str, int]
    _receipts: RoomReceipts = attrs.field(eq=False)
    _changes: int = attrs.field(eq=False)
    _marks: Mapping[str, int] = attrs.field(eq=False)

    def of_thread(self, thread_id: str) -> int:
        """Return the stream ID up to which a thread is read."""
        return max(self.everywhere, self.threads.get(thread_id, self.everywhere))

    def holds(self, receipts: RoomReceipts | None, marks: Mapping[str, int] | None) -> bool:
        """Whether nothing has changed since the position was derived from receipts and marks."""
        return (
            receipts is self._receipts
            and receipts.changes == self._changes
            and marks == self._marks
        )


class ReadPositionReader:
    """The positions of the users who ask this process."""

    def __init__(self, database: Database, receipts: Receipts, progress: StoredProgress) -> None:
        self._receipts = receipts
        self._marks = ReadMarks(database, progress.unstored_marks)

    def of_nowait(
        self, user_id: UserID, room_id: RoomID, before: ReadPosition | None = None
    ) -> ReadPosition | None:
        """Return how far a user has read a room; None if that has to be loaded first.

        With `before`, an earlier position of this user and room, it is that one if it holds.
        """
        receipts = self._receipts.of_room_nowait(room_id)
        marks = self._marks.of_room_nowait(user_id, room_id)
        if before is not None and before.holds(receipts, marks):
            return before
        if receipts is None or marks is None:
            return None
        by_receipts = receipts.read_up_to(user_id)
        everywhere = max(by_receipts.everywhere, marks.get(EVERYWHERE, by_receipts.everywhere))
        threads = dict(by_receipts.threads)
        for thread_id, stream_id in marks.items():
            if thread_id != EVERYWHERE and stream_id > threads.get(thread_id, everywhere):
                threads[thread_id] = stream_id
        return ReadPosition(everywhere, threads, receipts, receipts.changes, dict(marks))

    def joined_at_nowait(self, user_id: UserID, room_id: RoomID) -> int:
        """Return the stream ID of a user's latest join of a room, 0 if it is not in memory."""
        marks = self._marks.of_room_nowait(user_id, room_id) or NO_MARKS
        return marks.get(EVERYWHERE, 0)

    async def load(self, user_id: UserID, room_ids: Collection[RoomID]) -> None:
        """Read into memory how far a user has read rooms."""
        await self._receipts.of_rooms(room_ids)
        await self._marks.load(user_id)

    def add_mark(self, mark: tuple[str, str, str, int]) -> None:
        """Note that a user has read by joining or by sending."""
        user_id, room_id, thread_id, stream_id = mark
        self._marks.put(UserID(user_id), RoomID(room_id), thread_id, stream_id)

    def clear(self) -> None:
        """Forget the marks."""
        self._marks.clear()
