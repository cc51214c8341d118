"""The interfaces of ephemeral services to room memberships and user activity."""

from typing import Protocol

from hs.core.ids import RoomID, UserID


class JoinedMembers(Protocol):
    """A query for room memberships."""

    async def is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        """Return whether a user is joined to a room."""
        ...


class ActivityListener(Protocol):
    """A listener for user activity, which affects presence."""

    def note_active(self, user_id: UserID) -> None:
        """Record that a user is active now."""
        ...
