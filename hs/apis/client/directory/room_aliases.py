"""Room aliases, and the visibility of rooms in the directory."""

from typing import Literal

import attrs

from hs.apis.web.auth import NONE, USER
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import always, route
from hs.core.ids import RoomAlias, RoomID, ServerName, parse_room_id
from hs.core.requester import Requester
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.aliases.room_aliases import RoomAliases

_ALIAS = "/_matrix/client/v3/directory/room/{alias}"
_LISTED = "/_matrix/client/v3/directory/list/room/{room_id}"

Visibility = Literal["public", "private"]


@attrs.frozen
class GetRoomAliasRequest:
    """GET /directory/room/{roomAlias}."""

    alias: RoomAlias = path()


@attrs.frozen
class SetRoomAliasRequest:
    """PUT /directory/room/{roomAlias}."""

    requester: Requester
    alias: RoomAlias = path()
    room_id: RoomID = body(parse=parse_room_id)


@attrs.frozen
class DeleteRoomAliasRequest:
    """DELETE /directory/room/{roomAlias}."""

    requester: Requester
    alias: RoomAlias = path()


@attrs.frozen
class GetLocalAliasesRequest:
    """GET /rooms/{roomId}/aliases."""

    requester: Requester
    room_id: RoomID = path()


@attrs.frozen
class GetRoomVisibilityRequest:
    """GET /directory/list/room/{roomId}."""

    room_id: RoomID = path()


@attrs.frozen
class SetRoomVisibilityRequest:
    """PUT /directory/list/room/{roomId}."""

    requester: Requester
    room_id: RoomID = path()
    visibility: Visibility = body(default="public")


@attrs.frozen
class RoomAliasResponse:
    """The room of an alias."""

    room_id: RoomID
    servers: list[ServerName]


@attrs.frozen
class LocalAliasesResponse:
    """The aliases of a room on this server."""

    aliases: list[RoomAlias]


@attrs.frozen
class RoomVisibilityResponse:
    """The visibility of a room in the directory."""

    visibility: Visibility


@attrs.frozen
class RoomAliasesApi:
    """Endpoints of room aliases and of the visibility of rooms."""

    naming: RoomAliases
    public_rooms: PublicRooms

    @route("GET", _ALIAS, auth=NONE, work=WorkClass.OTHERS, cancel_on_disconnect=True)
    async def get_room_alias(self, request: GetRoomAliasRequest) -> RoomAliasResponse:
        """Spec: client-server API, Room aliases."""
        room_id, servers = await self.naming.look_up(request.alias)
        return RoomAliasResponse(room_id, servers)

    @route("PUT", _ALIAS, auth=USER, fresh=always)
    async def set_room_alias(self, request: SetRoomAliasRequest) -> Empty:
        """Spec: client-server API, Room aliases."""
        await self.naming.add_alias(request.requester, request.alias, request.room_id)
        return Empty()

    @route("DELETE", _ALIAS, auth=USER, fresh=always)
    async def delete_room_alias(self, request: DeleteRoomAliasRequest) -> Empty:
        """Spec: client-server API, Room aliases."""
        await self.naming.remove_alias(request.requester, request.alias)
        return Empty()

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/aliases",
        auth=USER,
        fresh=always,
        extra_paths=["/_matrix/client/unstable/org.matrix.msc2432/rooms/{room_id}/aliases"],
    )
    async def get_local_aliases(self, request: GetLocalAliasesRequest) -> LocalAliasesResponse:
        """Spec: client-server API, Room aliases."""
        return LocalAliasesResponse(
            await self.naming.aliases_of(request.requester, request.room_id)
        )

    @route("GET", _LISTED, auth=NONE)
    async def get_room_visibility(
        self, request: GetRoomVisibilityRequest
    ) -> RoomVisibilityResponse:
        """Spec: client-server API, Published room directory."""
        is_listed = await self.public_rooms.is_listed(request.room_id)
        return RoomVisibilityResponse("public" if is_listed else "private")

    @route("PUT", _LISTED, auth=USER, fresh=always)
    async def set_room_visibility(self, request: SetRoomVisibilityRequest) -> Empty:
        """Spec: client-server API, Published room directory."""
        await self.naming.set_listed(
            request.requester, request.room_id, request.visibility == "public"
        )
        return Empty()
