"""Unread counts as clients show them."""

from collections.abc import Mapping
from typing import NamedTuple

from hs.core.ids import EventID


class Count(NamedTuple):
    """The number of unread events that notify, and of those among them that highlight."""

    notifications: int = 0
    highlights: int = 0


class RoomCounts(NamedTuple):
    """A user's unread counts in one room: of the main timeline, and of threads by root."""

    main: Count = Count()
    threads: Mapping[EventID, Count] = {}

    def total(self) -> Count:
        """Return the count of the whole room."""
        if not self.threads:
            return self.main
        counts = [self.main, *self.threads.values()]
        return Count(
            sum(count.notifications for count in counts), sum(count.highlights for count in counts)
        )
