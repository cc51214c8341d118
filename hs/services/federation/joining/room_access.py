"""Which rooms another server may use to change memberships."""

from collections.abc import Collection
from typing import Final

import attrs

from hs.core.errors import Forbidden, NotFound
from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName, UserID
from hs.core.server_acl import parse_server_acl
from hs.services.rooms.store.auth_state import AuthState, AuthStateReader
from hs.services.rooms.store.memberships import Memberships

_ACL_KEY: Final = (event_types.SERVER_ACL, "")


@attrs.frozen(eq=False)
class HandshakeAccess:
    """Opens rooms for other servers."""

    _auth_states: AuthStateReader
    _memberships: Memberships

    async def open(
        self, origin: ServerName, room_id: RoomID, members: Collection[UserID] = ()
    ) -> AuthState:
        """Return the auth state of a room that this server is in.

        Raises: NotFound, if it is not; Forbidden, if the room's ACL denies the origin.
        """
        room = await self._auth_states.read(room_id, members=members, more=(_ACL_KEY,))
        if room is None or not (await self._memberships.present(room_id)).local:
            raise NotFound("This server is not in the room")
        acl = room.events.get(_ACL_KEY)
        if acl is not None and not parse_server_acl(acl.content).permits(origin):
            raise Forbidden("The room's access control list excludes your server")
        return room
