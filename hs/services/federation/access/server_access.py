"""Which servers may ask about a room, or change it: those that its server ACL permits.

Spec: client-server API, Server Access Control Lists; server-server API, Server ACLs.
"""

from typing import Final

import attrs

from hs.core.errors import Forbidden, NotFound
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.server_acl import ServerAcl, parse_server_acl
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.room_servers import RoomServers
from hs.services.rooms.store.state_store import StateStore

MAX_ACLS: Final = 1000


def _acls() -> LruCache[EventID, ServerAcl]:
    return LruCache("server_acls", max_entries=MAX_ACLS)


@attrs.frozen(eq=False)
class ServerAccess:
    """Checks the origins of requests that concern a room."""

    _server_name: ServerName
    _states: StateStore
    _servers: RoomServers
    _acls: LruCache[EventID, ServerAcl] = attrs.field(factory=_acls)

    async def is_permitted(self, server: ServerName, room_id: RoomID) -> bool:
        """Return whether the server ACL of a room permits a server."""
        stored = await self._states.current_event(room_id, event_types.SERVER_ACL)
        if stored is None:
            return True
        acl = self._acls.get(stored.event_id)
        if acl is None:
            acl = parse_server_acl(content_of(stored))
            self._acls.put(stored.event_id, acl)
        return acl.permits(server)

    async def check_permitted(self, server: ServerName, room_id: RoomID) -> None:
        """Raise Forbidden if the server ACL of a room excludes a server."""
        if not await self.is_permitted(server, room_id):
            raise Forbidden("Your server is excluded from the room by its m.room.server_acl")

    async def check_in_room(self, server: ServerName, room_id: RoomID) -> None:
        """Check that this server and another one are in a room.

        Raises: NotFound, if this server is not in the room; Forbidden, if the other one is not, or
        is excluded by the server ACL.
        """
        if not await self._servers.is_in_room(room_id, self._server_name):
            raise NotFound("This server is not in the room")
        await self.check_permitted(server, room_id)
        # The rows of other processes may be late here, so the database has the last word.
        if server not in await self._servers.servers_in(
            room_id
        ) and not await self._servers.is_in_room(room_id, server):
            raise Forbidden("Your server is not in the room")
