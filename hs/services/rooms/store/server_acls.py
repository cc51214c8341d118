"""The server ACLs of rooms, in each process.

Spec: client-server API, Server Access Control Lists.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.server_acl import ServerAcl, parse_server_acl
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

MAX_ACLS: Final = 500
MAX_ANSWERS: Final = 20_000

_AclKey = tuple[EventID, bool]  # the event, and whether it is redacted


def _acls() -> LruCache[_AclKey, ServerAcl]:
    return LruCache("server_acls", max_entries=MAX_ACLS)


def _answers() -> LruCache[tuple[_AclKey, ServerName], bool]:
    return LruCache("server_acl_answers", max_entries=MAX_ANSWERS)


@attrs.frozen(eq=False)
class ServerAcls:
    """The compiled server ACLs of rooms, and what they say about servers.

    An ACL may have thousands of entries, and is asked about the same servers again and again.
    """

    _states: StateStore
    _acls: LruCache[_AclKey, ServerAcl] = attrs.Factory(_acls)
    _answers: LruCache[tuple[_AclKey, ServerName], bool] = attrs.Factory(_answers)

    async def permits(self, room_id: RoomID, server: ServerName) -> bool:
        """Return whether a server may participate in a room."""
        stored = await self._states.current_event(room_id, event_types.SERVER_ACL)
        if stored is None:
            return True
        key = (stored.event.event_id, stored.redacted_by is not None)
        answer = self._answers.get((key, server))
        if answer is None:
            answer = self._acl(key, stored).permits(server)
            self._answers.put((key, server), answer)
        return answer

    async def check(self, room_id: RoomID, server: ServerName) -> None:
        """Raise Forbidden if a server may not participate in a room."""
        if not await self.permits(room_id, server):
            raise Forbidden("Your server is excluded from this room by its access control list")

    async def denied_rooms(
        self, server: ServerName, room_ids: Iterable[RoomID]
    ) -> frozenset[RoomID]:
        """Return those of the rooms in which a server may not participate."""
        return frozenset([each for each in room_ids if not await self.permits(each, server)])

    def _acl(self, key: _AclKey, stored: StoredEvent) -> ServerAcl:
        acl = self._acls.get(key)
        if acl is None:
            acl = parse_server_acl(stored.effective_event.content)
            self._acls.put(key, acl)
        return acl
