"""Which servers to ask about a room."""

from typing import Final

import attrs

from hs.core.ids import RoomID, ServerName
from hs.services.federation.access.server_access import ServerAccess
from hs.services.rooms.store.room_servers import RoomServers

MAX_CANDIDATES: Final = 50


@attrs.frozen(eq=False)
class ServersToAsk:
    """Lists the other servers in a room."""

    _servers: RoomServers
    _access: ServerAccess

    async def in_room(self, room_id: RoomID, count: int) -> list[ServerName]:
        """Return up to `count` other servers in a room, those with most members first.

        Servers that the room's ACL excludes are left out.
        """
        servers: list[ServerName] = []
        for server in await self._servers.largest_in(room_id, MAX_CANDIDATES):
            if len(servers) == count:
                break
            if await self._access.is_permitted(server, room_id):
                servers.append(server)
        return servers
