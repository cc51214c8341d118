"""The interface for asking other servers for events that are missing in a room's history."""

from typing import Final, Protocol

import attrs

from hs.core.ids import RoomID


@attrs.frozen
class GapReport:
    """What became of gaps: `changed`, if events were stored.

    `late_at` is the depth of the deepest event below which servers are still being asked for what
    is missing; None if nobody has what is missing, or nothing is.
    """

    changed: bool = False
    late_at: int | None = None


NO_GAPS: Final = GapReport()


class OlderHistory(Protocol):
    """Fills gaps in the history of rooms."""

    async def fill(self, room_id: RoomID, depths: tuple[int, int]) -> GapReport:
        """Fill the gaps below the events between two depths, both included, for a limited time."""
        ...
