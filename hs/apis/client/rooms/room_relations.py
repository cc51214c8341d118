"""Events that relate to an event, and threads."""

from typing import Literal

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import path, query
from hs.apis.web.route import always, route
from hs.core.ids import EventID, RoomID, parse_event_id
from hs.core.requester import Requester
from hs.services.rooms.read.related_events import (
    RelatedEvents,
    RelationsPage,
    RelationsRequest,
    ThreadsPage,
)


@attrs.frozen
class GetRelatingEventsRequest:
    """GET /rooms/{roomId}/relations/{eventId}/{relType}/{eventType}."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)
    rel_type: str = path(default="")
    event_type: str = path(default="")
    direction: Literal["b", "f"] = query(name="dir", default="b")
    start: str | None = query(name="from", default=None)
    to: str | None = query(default=None)
    limit: int | None = query(default=None)
    recurse: bool = query(default=False)
    recurse_unstable: bool = query(name="org.matrix.msc3981.recurse", default=False)


@attrs.frozen
class GetThreadsRequest:
    """GET /rooms/{roomId}/threads."""

    requester: Requester
    room_id: RoomID = path()
    include: Literal["all", "participated"] = query(default="all")
    limit: int | None = query(default=None)
    start: str | None = query(name="from", default=None)


_RELATIONS = "/_matrix/client/{version}/rooms/{{room_id}}/relations/{{event_id}}"


def _paths(version: str) -> tuple[str, str, str]:
    base = _RELATIONS.format(version=version)
    return base, f"{base}/{{rel_type}}", f"{base}/{{rel_type}}/{{event_type}}"


@attrs.frozen
class RoomRelationsApi:
    """Endpoints of relations."""

    related: RelatedEvents

    @route(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}",
        auth=USER,
        extra_paths=[*_paths("v1")[:2], *_paths("unstable")],
        fresh=always,
        work=WorkClass.READ,
    )
    async def get_relating_events(self, request: GetRelatingEventsRequest) -> RelationsPage:
        """Spec: client-server API, GET /rooms/{roomId}/relations/{eventId}."""
        page = RelationsRequest(
            room_id=request.room_id,
            event_id=request.event_id,
            rel_type=request.rel_type,
            event_type=request.event_type,
            direction=request.direction,
            start=request.start or None,
            to=request.to or None,
            limit=request.limit,
            recurse=request.recurse or request.recurse_unstable,
        )
        return await self.related.children(request.requester, page)

    @route(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/threads",
        auth=USER,
        extra_paths=["/_matrix/client/unstable/org.matrix.msc3856/rooms/{room_id}/threads"],
        fresh=always,
        work=WorkClass.READ,
    )
    async def get_threads(self, request: GetThreadsRequest) -> ThreadsPage:
        """Spec: client-server API, GET /rooms/{roomId}/threads."""
        return await self.related.threads(
            request.requester,
            request.room_id,
            participated=request.include == "participated",
            start=request.start or None,
            limit=request.limit,
        )
