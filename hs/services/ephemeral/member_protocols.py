"""What ephemeral facts ask about rooms' members, and whom they tell of what users do."""

from typing import Protocol

from hs.core.ids import RoomID, UserID


class Joined(Protocol):
    """Tells who is joined to a room."""

    async def is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        """Tell whether a user is joined to a room."""
        ...


class Activity(Protocol):
    """Wants to know who does something, for their presence."""

    def note_active(self, user_id: UserID) -> None:
        """Note that a user did something just now."""
        ...
