"""Checks that a server may ask about a room: it is in the room, and the server ACL permits it.

Spec: client-server API, Server Access Control Lists; server-server API, Server ACLs.
"""

import attrs

from hs.core.errors import Forbidden, NotFound
from hs.core.ids import RoomID, ServerName
from hs.services.rooms.store.room_servers import RoomServers
from hs.services.rooms.store.server_acls import ServerAcls


@attrs.frozen(eq=False)
class ServerAccess:
    """Checks the origins of requests that concern a room."""

    _server_name: ServerName
    _acls: ServerAcls
    _servers: RoomServers

    async def is_permitted(self, server: ServerName, room_id: RoomID) -> bool:
        """Return whether the server ACL of a room permits a server."""
        return await self._acls.permits(room_id, server)

    async def is_here(self, room_id: RoomID) -> bool:
        """Return whether this server is in a room."""
        return await self._servers.is_in_room(room_id, self._server_name)

    async def check_permitted(self, server: ServerName, room_id: RoomID) -> None:
        """Check that this server is in a room whose server ACL permits another one.

        Raises: NotFound, if it is not in the room; Forbidden.
        """
        if not await self.is_here(room_id):
            raise NotFound("This server is not in the room")
        await self._acls.check(room_id, server)

    async def check_in_room(self, server: ServerName, room_id: RoomID) -> None:
        """Check that this server and another one are in a room whose server ACL permits it.

        Raises: NotFound, if this server is not in the room; Forbidden.
        """
        await self.check_permitted(server, room_id)
        # The rows of other processes may be late here, so the database has the last word.
        if server not in await self._servers.servers_in(
            room_id
        ) and not await self._servers.is_in_room(room_id, server):
            raise Forbidden("Your server is not in the room")
