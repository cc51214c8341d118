"""Aliases of rooms, and whether a room is listed."""

from typing import Literal

import attrs

from hs.apis.web.auth import NONE, USER
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import RoomAlias, RoomID, ServerName, parse_room_id
from hs.core.requester import Requester
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.aliases.room_aliases import RoomNaming

_ALIAS = "/_matrix/client/v3/directory/room/{alias}"
_LISTED = "/_matrix/client/v3/directory/list/room/{room_id}"

Visibility = Literal["public", "private"]


@attrs.frozen
class LookUpAlias:
    """Spec: client-server API, GET /directory/room/{roomAlias}."""

    alias: RoomAlias = path()


@attrs.frozen
class AddAlias:
    """Spec: client-server API, PUT /directory/room/{roomAlias}."""

    requester: Requester
    alias: RoomAlias = path()
    room_id: RoomID = body(parse=parse_room_id)


@attrs.frozen
class RemoveAlias:
    """Spec: client-server API, DELETE /directory/room/{roomAlias}."""

    requester: Requester
    alias: RoomAlias = path()


@attrs.frozen
class ListAliases:
    """Spec: client-server API, GET /rooms/{roomId}/aliases."""

    requester: Requester
    room_id: RoomID = path()


@attrs.frozen
class IsListed:
    """Spec: client-server API, GET /directory/list/room/{roomId}."""

    room_id: RoomID = path()


@attrs.frozen
class SetListed:
    """Spec: client-server API, PUT /directory/list/room/{roomId}."""

    requester: Requester
    room_id: RoomID = path()
    visibility: Visibility = body(default="public")


@attrs.frozen
class FoundRoom:
    """What an alias stands for."""

    room_id: RoomID
    servers: list[ServerName]


@attrs.frozen
class AliasesOfRoom:
    """The aliases this server has of a room."""

    aliases: list[RoomAlias]


@attrs.frozen
class Listed:
    """Whether a room is in the directory."""

    visibility: Visibility


@attrs.frozen
class DirectoryApi:
    """The endpoints of aliases and of a room's place in the directory."""

    naming: RoomNaming
    public_rooms: PublicRooms

    @route("GET", _ALIAS, auth=NONE)
    async def look_up(self, request: LookUpAlias) -> FoundRoom:
        """Find the room of an alias."""
        room_id, servers = await self.naming.look_up(request.alias)
        return FoundRoom(room_id, servers)

    @route("PUT", _ALIAS, auth=USER)
    async def add(self, request: AddAlias) -> Empty:
        """Make an alias."""
        await self.naming.add_alias(request.requester, request.alias, request.room_id)
        return Empty()

    @route("DELETE", _ALIAS, auth=USER)
    async def remove(self, request: RemoveAlias) -> Empty:
        """Remove an alias."""
        await self.naming.remove_alias(request.requester, request.alias)
        return Empty()

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/aliases",
        auth=USER,
        also=["/_matrix/client/unstable/org.matrix.msc2432/rooms/{room_id}/aliases"],
    )
    async def list_aliases(self, request: ListAliases) -> AliasesOfRoom:
        """List the aliases of a room."""
        return AliasesOfRoom(await self.naming.aliases_of(request.requester, request.room_id))

    @route("GET", _LISTED, auth=NONE)
    async def is_listed(self, request: IsListed) -> Listed:
        """Tell whether a room is listed."""
        listed = await self.public_rooms.is_listed(request.room_id)
        return Listed("public" if listed else "private")

    @route("PUT", _LISTED, auth=USER)
    async def set_listed(self, request: SetListed) -> Empty:
        """List a room, or do not."""
        await self.naming.set_listed(
            request.requester, request.room_id, request.visibility == "public"
        )
        return Empty()
