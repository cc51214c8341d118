"""What services are told of the rooms that their users are invited to."""

from collections.abc import Sequence
from typing import Any

import attrs

from hs.core.ids import RoomID, UserID
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.store.memberships import Memberships


@attrs.frozen(eq=False)
class InviteStates:
    """Shows what the invited user sees."""

    _memberships: Memberships
    _stripped: StrippedState

    async def invite_state(self, room_id: RoomID, user_id: UserID) -> Sequence[Any]:
        """Give stripped state; none for who is not invited any more and never was in the room."""
        own = await self._memberships.local_membership(room_id, user_id)
        if own is None:
            return ()
        return (await self._stripped.of(user_id, {room_id: own}))[room_id]
