"""Who may see profiles, by the settings; the rooms show them to their members in any case."""

from typing import Protocol

import attrs

from hs.core.errors import Forbidden, MissingToken
from hs.core.ids import UserID
from hs.core.requester import Requester


class RoomSharing(Protocol):
    """Knows who is in rooms together."""

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        """Tell whether two users are joined to one room."""
        ...


@attrs.frozen
class ProfileAudience:
    """Decides; with `only_neighbours` one sees those whom one shares a room with."""

    rooms: RoomSharing
    needs_token: bool = False
    only_neighbours: bool = False

    async def check(self, requester: Requester | None, user_id: UserID) -> None:
        """Refuse who may not see a user's profile. Raises: MissingToken, Forbidden."""
        if requester is None:
            if self.needs_token or self.only_neighbours:
                raise MissingToken("Missing access token")
            return
        if not self.only_neighbours or requester.user_id == user_id or requester.is_admin:
            return
        if not await self.rooms.share_room(requester.user_id, user_id):
            raise Forbidden("You share no room with this user")
