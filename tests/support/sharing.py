"""Shared rooms of users, as a set of pairs that is empty at first."""

import attrs

from hs.core.ids import UserID


@attrs.define
class SharedRooms:
    """RoomSharing over a set."""

    pairs: set[tuple[UserID, UserID]] = attrs.Factory(set)

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        return (user_id, other_id) in self.pairs
