"""The unread count of one user in one room, as it is kept between responses.

A count includes the events in `(read position, upto]`. From one response to the next it is
brought up to date with the least work that keeps it exact:

- Nothing was removed from the room's recent notifications and the user has read nothing: what
  came since is added.
- The user has read further in some threads, all of them above the floor of the recent
  notifications: these threads are counted again, from memory.
- Otherwise, if the user has read everything below the floor: all threads are counted again, from
  memory, by a new `UserRoomCount`.
- Otherwise the database counts up to the floor, and what is above it is added.
"""

import attrs

from hs.core.ids import EventID, UserID
from hs.core.push.unread import Count, RoomCounts
from hs.core.relations import MAIN_TIMELINE
from hs.services.push.unread.read_positions import ReadPosition
from hs.services.push.unread.recent_notifications import RecentInRoom


@attrs.define(eq=False)
class UserRoomCount:
    """(notifications, highlights) by thread; `version` is that of the recent notifications."""

    user_id: UserID
    read: ReadPosition
    upto: int
    version: int
    threads: dict[str, tuple[int, int]] = attrs.Factory(dict)
    _shown: RoomCounts | None = None

    def update(self, recent: RecentInRoom, read: ReadPosition) -> bool:
        """Bring the count up to date from the recent notifications.

        Return False, with the count unchanged, if these do not suffice.
        """
        if self.version != recent.version or self.upto < recent.floor:
            return False
        if read is self.read or read == self.read:
            self._add_new(recent)
        elif not self._recount_read_threads(recent, read):
            return False
        self.read = read
        return True

    def shown(self) -> RoomCounts:
        """Return the count as clients see it, never negative."""
        if self._shown is None:
            counts = {
                thread_id: Count(max(0, notify), max(0, highlight))
                for thread_id, (notify, highlight) in self.threads.items()
            }
            main = counts.pop(MAIN_TIMELINE, Count())
            threads = {EventID(root): count for root, count in counts.items() if any(count)}
            self._shown = RoomCounts(main, threads)
        return self._shown

    def _recount_read_threads(self, recent: RecentInRoom, read: ReadPosition) -> bool:
        before = self.read
        if read.everywhere != before.everywhere:
            return False
        moved = {
            thread_id
            for thread_id in read.threads.keys() | before.threads.keys()
            if read.of_thread(thread_id) != before.of_thread(thread_id)
        }
        if any(read.of_thread(thread_id) < recent.floor for thread_id in moved):
            return False
        self._add_new(recent)
        counts = recent.count(self.user_id, recent.floor, read.of_thread) if moved else {}
        for thread_id in moved:
            self.threads.pop(thread_id, None)
            if thread_id in counts:
                self.threads[thread_id] = counts[thread_id]
        self._shown = None
        return True

    def _add_new(self, recent: RecentInRoom) -> None:
        if recent.last <= self.upto:
            return
        new = recent.count(self.user_id, self.upto, self.read.of_thread)
        self.upto = recent.last
        for thread_id, (notify, highlight) in new.items():
            notified, highlighted = self.threads.get(thread_id, (0, 0))
            self.threads[thread_id] = (notified + notify, highlighted + highlight)
            self._shown = None
