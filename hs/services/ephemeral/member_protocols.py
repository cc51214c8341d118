"""The interface of ephemeral services to room memberships."""

from typing import Protocol

from hs.core.ids import RoomID, UserID


class JoinedMembers(Protocol):
    """A query for room memberships."""

    async def is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        """Return whether a user is joined to a room."""
        ...
