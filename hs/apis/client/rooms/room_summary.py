"""Rooms seen from outside: their summaries, and the trees below spaces."""

import attrs

from hs.apis.web.auth import OPTIONAL, USER
from hs.apis.web.request import path, query
from hs.apis.web.route import route
from hs.core.ids import RoomAlias, RoomID, parse_room_alias, parse_room_id
from hs.core.requester import Requester
from hs.services.rooms.read.hierarchy import Hierarchy, HierarchyAsk, HierarchyPage
from hs.services.rooms.read.room_previews import RoomPreview, RoomPreviews


def parse_room(text: str) -> RoomID | RoomAlias:
    """Read a room ID or an alias.

    Raises: InvalidParam.
    """
    return parse_room_alias(text) if text.startswith("#") else parse_room_id(text)


@attrs.frozen
class GetSummary:
    """Ask for the summary of a room."""

    requester: Requester | None
    room: RoomID | RoomAlias = path(parse=parse_room)
    via: list[str] = query(factory=list)


@attrs.frozen
class GetHierarchy:
    """Ask for the rooms below a space."""

    requester: Requester
    room_id: RoomID = path()
    suggested_only: bool = query(default=False)
    max_depth: int | None = query(default=None)
    limit: int | None = query(default=None)
    start: str | None = query(name="from", default=None)


@attrs.frozen
class RoomSummaryApi:
    """Reading what lists and trees of rooms show."""

    previews: RoomPreviews
    hierarchy: Hierarchy

    @route(
        "GET",
        "/_matrix/client/v1/room_summary/{room}",
        auth=OPTIONAL,
        also=[
            "/_matrix/client/unstable/im.nheko.summary/summary/{room}",
            "/_matrix/client/unstable/im.nheko.summary/rooms/{room}/summary",
        ],
    )
    async def summary(self, request: GetSummary) -> RoomPreview:
        """Spec: client-server API, GET /room_summary/{roomIdOrAlias}."""
        user_id = None if request.requester is None else request.requester.user_id
        return await self.previews.find(user_id, request.room)

    @route(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/hierarchy",
        auth=USER,
        also=["/_matrix/client/unstable/org.matrix.msc2946/rooms/{room_id}/hierarchy"],
        waits=True,
    )
    async def rooms_below(self, request: GetHierarchy) -> HierarchyPage:
        """Spec: client-server API, GET /rooms/{roomId}/hierarchy."""
        ask = HierarchyAsk(
            request.room_id,
            request.suggested_only,
            request.max_depth,
            request.limit,
            request.start or None,
        )
        return await self.hierarchy.page(request.requester.user_id, ask)
