"""The history of rooms: messages, context, single events, events by timestamp."""

from typing import Literal

import attrs

from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import path, query
from hs.apis.web.route import always, route
from hs.core.canonical_json import parse_json
from hs.core.errors import InvalidParam
from hs.core.filters import ANY_EVENT, EventFilter, parse_event_filter
from hs.core.ids import EventID, RoomID, parse_event_id
from hs.core.requester import Requester
from hs.services.rooms.read.timelines import (
    DEFAULT_LIMIT,
    ContextPage,
    MessagesPage,
    MessagesRequest,
    Timelines,
)
from hs.services.rooms.read.timestamp_search import EventByTime, TimestampSearch


def parse_filter(text: str) -> EventFilter:
    """Parse a filter that is JSON in the query. Raises: NotJson, BadJson."""
    return parse_event_filter(parse_json(text.encode()))


def parse_limit(text: str) -> int:
    """Parse a limit. Raises: InvalidParam unless it is an integer that is not negative."""
    try:
        limit = int(text)
    except ValueError as error:
        raise InvalidParam("limit must be an integer") from error
    if limit < 0:
        raise InvalidParam("limit must not be negative")
    return limit


@attrs.frozen
class GetMessagesRequest:
    """GET /rooms/{roomId}/messages."""

    requester: Requester
    room_id: RoomID = path()
    direction: Literal["b", "f"] = query(name="dir")
    start: str | None = query(name="from", default=None)
    to: str | None = query(default=None)
    limit: int | None = query(default=None, parse=parse_limit)
    event_filter: EventFilter = query(name="filter", default=ANY_EVENT, parse=parse_filter)


@attrs.frozen
class GetEventContextRequest:
    """GET /rooms/{roomId}/context/{eventId}."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)
    limit: int = query(default=DEFAULT_LIMIT, parse=parse_limit)
    event_filter: EventFilter = query(name="filter", default=ANY_EVENT, parse=parse_filter)


@attrs.frozen
class GetRoomEventRequest:
    """GET /rooms/{roomId}/event/{eventId}."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)


@attrs.frozen
class GetEventRequest:
    """GET /events/{eventId}."""

    requester: Requester
    event_id: EventID = path(parse=parse_event_id)


@attrs.frozen
class GetEventByTimestampRequest:
    """GET /rooms/{roomId}/timestamp_to_event."""

    requester: Requester
    room_id: RoomID = path()
    ts: int = query()
    direction: Literal["b", "f"] = query(name="dir")


@attrs.frozen
class RoomMessagesApi:
    """Endpoints that read the history of rooms."""

    timelines: Timelines
    timestamps: TimestampSearch

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/messages",
        auth=USER_OR_GUEST,
        fresh=always,
        work=WorkClass.READ,
    )
    async def get_messages(self, request: GetMessagesRequest) -> MessagesPage:
        """Spec: client-server API, GET /rooms/{roomId}/messages."""
        page = MessagesRequest(
            room_id=request.room_id,
            direction=request.direction,
            start=request.start or None,
            to=request.to or None,
            limit=request.limit,
            event_filter=request.event_filter,
        )
        return await self.timelines.messages(request.requester, page)

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/context/{event_id}",
        auth=USER_OR_GUEST,
        fresh=always,
        work=WorkClass.READ,
    )
    async def get_event_context(self, request: GetEventContextRequest) -> ContextPage:
        """Spec: client-server API, GET /rooms/{roomId}/context/{eventId}."""
        return await self.timelines.context(
            request.requester,
            request.room_id,
            request.event_id,
            request.limit,
            request.event_filter,
        )

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/event/{event_id}",
        auth=USER_OR_GUEST,
        fresh=always,
    )
    async def get_room_event(self, request: GetRoomEventRequest) -> bytes:
        """Spec: client-server API, GET /rooms/{roomId}/event/{eventId}."""
        return await self.timelines.event(request.requester, request.event_id, request.room_id)

    @route("GET", "/_matrix/client/v3/events/{event_id}", auth=USER, fresh=always)
    async def get_event(self, request: GetEventRequest) -> bytes:
        """Spec: client-server API, GET /events/{eventId}, deprecated."""
        return await self.timelines.event(request.requester, request.event_id)

    @route(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/timestamp_to_event",
        auth=USER,
        work=WorkClass.OTHERS,
        cancel_on_disconnect=True,
        extra_paths=[
            "/_matrix/client/unstable/org.matrix.msc3030/rooms/{room_id}/timestamp_to_event"
        ],
        fresh=always,
    )
    async def get_event_by_timestamp(self, request: GetEventByTimestampRequest) -> EventByTime:
        """Spec: client-server API, GET /rooms/{roomId}/timestamp_to_event."""
        return await self.timestamps.closest_event(
            request.requester, request.room_id, request.ts, request.direction
        )
