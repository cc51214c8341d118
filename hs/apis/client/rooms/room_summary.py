"""Room summaries and space hierarchies."""

import attrs

from hs.apis.web.auth import OPTIONAL, USER
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import path, query
from hs.apis.web.route import always, route
from hs.core.canonical_json import JsonObject
from hs.core.ids import (
    RoomAlias,
    RoomID,
    ServerName,
    parse_room_alias,
    parse_room_id,
    parse_server_name,
)
from hs.core.requester import Requester
from hs.services.rooms.read.hierarchy import MAX_VIA, Hierarchy, HierarchyPage, HierarchyRequest
from hs.services.rooms.read.room_previews import RoomPreview, RoomPreviews


def parse_room(text: str) -> RoomID | RoomAlias:
    """Parse a room ID or alias. Raises: InvalidParam."""
    return parse_room_alias(text) if text.startswith("#") else parse_room_id(text)


@attrs.frozen
class GetRoomSummaryRequest:
    """GET /room_summary/{roomIdOrAlias}."""

    requester: Requester | None
    room: RoomID | RoomAlias = path(parse=parse_room)
    via: list[str] = query(factory=list)

    @property
    def servers(self) -> list[ServerName]:
        """The servers to ask. Raises: InvalidParam."""
        return [parse_server_name(server) for server in self.via[:MAX_VIA]]


@attrs.frozen
class GetSpaceHierarchyRequest:
    """GET /rooms/{roomId}/hierarchy."""

    requester: Requester
    room_id: RoomID = path()
    suggested_only: bool = query(default=False)
    max_depth: int | None = query(default=None)
    limit: int | None = query(default=None)
    start: str | None = query(name="from", default=None)


@attrs.frozen
class RoomSummaryApi:
    """Endpoints of room summaries and space hierarchies."""

    previews: RoomPreviews
    hierarchy: Hierarchy

    @route(
        "GET",
        "/_matrix/client/v1/room_summary/{room}",
        auth=OPTIONAL,
        work=WorkClass.OTHERS,
        cancel_on_disconnect=True,
        fresh=always,
        extra_paths=[
            "/_matrix/client/unstable/im.nheko.summary/summary/{room}",
            "/_matrix/client/unstable/im.nheko.summary/rooms/{room}/summary",
        ],
    )
    async def get_room_summary(self, request: GetRoomSummaryRequest) -> RoomPreview | JsonObject:
        """Spec: client-server API, GET /room_summary/{roomIdOrAlias}."""
        user_id = None if request.requester is None else request.requester.user_id
        return await self.previews.find(user_id, request.room, request.servers)

    @route(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/hierarchy",
        auth=USER,
        work=WorkClass.OTHERS,
        fresh=always,
        extra_paths=["/_matrix/client/unstable/org.matrix.msc2946/rooms/{room_id}/hierarchy"],
        cancel_on_disconnect=True,
    )
    async def get_space_hierarchy(self, request: GetSpaceHierarchyRequest) -> HierarchyPage:
        """Spec: client-server API, GET /rooms/{roomId}/hierarchy."""
        page = HierarchyRequest(
            request.room_id,
            request.suggested_only,
            request.max_depth,
            request.limit,
            request.start or None,
        )
        return await self.hierarchy.page(request.requester.user_id, page)
