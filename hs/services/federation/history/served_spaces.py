"""The hierarchy of a space, one level deep, that other servers ask for.

Spec: server-server API, Spaces.
"""

from typing import Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam, NotFound
from hs.core.ids import RoomID, ServerName, parse_room_id
from hs.services.federation.access.server_access import ServerAccess
from hs.services.rooms.read.hierarchy import Hierarchy, hierarchy_entry
from hs.services.rooms.read.room_previews import RoomPreviews
from hs.services.rooms.store.stored_event import StoredEvent

MAX_CHILDREN: Final = 100


@attrs.frozen
class ServedHierarchy:
    """A room, those of its children that the server may see, and the others."""

    room: JsonObject
    children: list[JsonObject]
    inaccessible_children: list[RoomID]


@attrs.frozen(eq=False)
class ServedSpaces:
    """Reads hierarchies for other servers."""

    _previews: RoomPreviews
    _hierarchy: Hierarchy
    _access: ServerAccess

    async def hierarchy(
        self, origin: ServerName, room_id: RoomID, suggested_only: bool
    ) -> ServedHierarchy:
        """Return a room and its children.

        Raises: NotFound, if this server is not in the room, or the other one may not see it.
        """
        preview = (await self._previews.previews_of_server(origin, (room_id,))).get(room_id)
        if preview is None or not await self._access.is_permitted(origin, room_id):
            raise NotFound("Room does not exist")
        events = await self._hierarchy.children(preview, suggested_only)
        child_ids = [each for event in events if (each := _room_id_of(event)) is not None]
        previews = await self._previews.previews_of_server(origin, child_ids[:MAX_CHILDREN])
        children: list[JsonObject] = []
        inaccessible: list[RoomID] = []
        for child_id, child in previews.items():
            if child is None or not await self._access.is_permitted(origin, child_id):
                inaccessible.append(child_id)
                continue
            grandchildren = await self._hierarchy.children(child, suggested_only)
            children.append(hierarchy_entry(child, grandchildren))
        return ServedHierarchy(hierarchy_entry(preview, events), children, inaccessible)


def _room_id_of(event: StoredEvent) -> RoomID | None:
    try:
        return parse_room_id(event.event.state_key)
    except InvalidParam:
        return None
