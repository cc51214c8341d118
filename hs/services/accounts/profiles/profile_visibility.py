"""The configured visibility of profiles. Room members always see each other's member events."""

from typing import Protocol

import attrs

from hs.core.errors import Forbidden, MissingToken
from hs.core.ids import UserID
from hs.core.requester import Requester


class RoomSharing(Protocol):
    """A query for shared rooms."""

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        """Return whether both users are joined to the same room."""
        ...


@attrs.frozen
class ProfileVisibility:
    """The check of profile requests.

    With `requires_shared_room`, a user sees only the profiles of users in shared rooms.
    """

    rooms: RoomSharing
    needs_token: bool = False
    requires_shared_room: bool = False

    async def check(self, requester: Requester | None, user_id: UserID) -> None:
        """Check that a requester may see a user's profile. Raises: MissingToken, Forbidden."""
        if requester is None:
            if self.needs_token or self.requires_shared_room:
                raise MissingToken("Missing access token")
            return
        if not self.requires_shared_room or requester.user_id == user_id or requester.is_admin:
            return
        if not await self.rooms.share_room(requester.user_id, user_id):
            raise Forbidden("You share no room with this user")
