"""What is unread in a room: the numbers that clients show."""

from collections.abc import Mapping
from typing import NamedTuple

from hs.core.ids import EventID


class Count(NamedTuple):
    """Unread events that notify, and those of them that highlight."""

    notifications: int = 0
    highlights: int = 0


class RoomCounts(NamedTuple):
    """A user's unread counts of one room: of the main timeline, and of threads by their roots."""

    main: Count = Count()
    threads: Mapping[EventID, Count] = {}

    def total(self) -> Count:
        """Give the counts over all of the room."""
        if not self.threads:
            return self.main
        counts = [self.main, *self.threads.values()]
        return Count(sum(one[0] for one in counts), sum(one[1] for one in counts))
