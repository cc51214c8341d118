"""The stripped state that invited users see, for what is sent about an invite."""

from collections.abc import Sequence
from typing import Any

import attrs

from hs.core.ids import RoomID, UserID
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.store.memberships import Memberships


@attrs.frozen(eq=False)
class InviteStates:
    """Reads the stripped state of single invites."""

    _memberships: Memberships
    _stripped: StrippedState

    async def invite_state(self, room_id: RoomID, user_id: UserID) -> Sequence[Any]:
        """Return the stripped state; empty if the user has no membership in the room any more."""
        membership = await self._memberships.local_membership(room_id, user_id)
        if membership is None:
            return ()
        return (await self._stripped.of(user_id, {room_id: membership}))[room_id]
