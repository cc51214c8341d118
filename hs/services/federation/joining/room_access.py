"""Which rooms another server may use to change memberships."""

from collections.abc import Collection

import attrs

from hs.core.errors import NotFound
from hs.core.ids import RoomID, ServerName, UserID
from hs.services.federation.access.server_access import ServerAccess
from hs.services.rooms.store.auth_state import AuthState, AuthStateReader


@attrs.frozen(eq=False)
class HandshakeAccess:
    """Opens rooms for other servers, which need not be in them."""

    _auth_states: AuthStateReader
    _access: ServerAccess

    async def is_here(self, room_id: RoomID) -> bool:
        """Return whether this server is in a room."""
        return await self._access.is_here(room_id)

    async def open(
        self, origin: ServerName, room_id: RoomID, members: Collection[UserID] = ()
    ) -> AuthState:
        """Return the auth state of a room that this server is in.

        Raises: NotFound, if it is not; Forbidden, if the room's ACL denies the origin.
        """
        await self._access.check_permitted(origin, room_id)
        room = await self._auth_states.read(room_id, members=members)
        if room is None:
            raise NotFound("This server is not in the room")
        return room
