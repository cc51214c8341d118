"""Checks that a server may ask about a room: it is in the room, and the server ACL permits it.

Rules:

- The end of a server's time in a room can only be checked with what is before it. So a server that
  has left, or whose users were removed, may still ask for the events of the time when it was in the
  room; and one that has left itself still responds, with what it knows of the room.

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
        if not await self._is_in_room(server, room_id):
            raise Forbidden("Your server is not in the room")

    async def check_was_in_room(self, server: ServerName, room_id: RoomID) -> bool:
        """Check that another server is or was in a room whose server ACL permits it.

        Return whether it is in the room, as far as this server knows, which may have left itself.
        Raises: NotFound, Forbidden.
        """
        await self._acls.check(room_id, server)
        if await self._is_in_room(server, room_id):
            return True
        if await self._servers.was_in_room(room_id, server):
            return False
        if not await self.is_here(room_id):
            raise NotFound("This server is not in the room")
        raise Forbidden("Your server is not in the room")

    async def _is_in_room(self, server: ServerName, room_id: RoomID) -> bool:
        # The rows of other processes may be late here, so the database has the last word.
        servers = await self._servers.servers_in(room_id)
        return server in servers or await self._servers.is_in_room(room_id, server)
