"""The interface for asking other servers for events that are missing in a room's history."""

from typing import Final, Literal, Protocol

import attrs

from hs.core.ids import EventID, RoomID


@attrs.frozen
class GapReport:
    """What became of gaps: `changed`, if events were stored.

    `late_at` is the depth of the deepest event below which servers are still being asked for what
    is missing; None if nobody has what is missing, or nothing is.
    """

    changed: bool = False
    late_at: int | None = None


NO_GAPS: Final = GapReport()


@attrs.frozen
class TimeQuery:
    """A time, the direction in which to search an event, and the closest one that is stored.

    `depth` and `found_ts` are those of that event; None if none is stored.
    """

    room_id: RoomID
    ts: int
    direction: Literal["b", "f"]
    depth: int | None = None
    found_ts: int | None = None

    def is_closer(self, ts: int) -> bool:
        """Return whether an event with a timestamp is closer than the stored one."""
        if self.direction == "f":
            return self.ts <= ts and (self.found_ts is None or ts < self.found_ts)
        return ts <= self.ts and (self.found_ts is None or ts > self.found_ts)


class OlderHistory(Protocol):
    """Fills gaps in the history of rooms."""

    async def fill(self, room_id: RoomID, depths: tuple[int, int]) -> GapReport:
        """Fill the gaps below the events between two depths, both included, for a limited time."""
        ...

    async def find_closer(self, query: TimeQuery) -> EventID | None:
        """Find and store an event that is closer to a time, where stored events have a gap."""
        ...
