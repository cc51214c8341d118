"""Rooms' history: messages, context, single events, jumps to a date."""

from typing import Literal

import attrs

from hs.apis.web.auth import USER, USER_OR_GUEST
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
    FoundByTime,
    MessagesAsk,
    MessagesPage,
    Timelines,
)


def parse_filter(text: str) -> EventFilter:
    """Read a filter given as JSON in the query.

    Raises: NotJson, BadJson.
    """
    return parse_event_filter(parse_json(text.encode()))


def parse_limit(text: str) -> int:
    """Read a limit.

    Raises: InvalidParam.
    """
    try:
        limit = int(text)
    except ValueError as fault:
        raise InvalidParam("limit must be an integer") from fault
    if limit < 0:
        raise InvalidParam("limit must not be negative")
    return limit


@attrs.frozen
class GetMessages:
    """Ask for a page of history."""

    requester: Requester
    room_id: RoomID = path()
    direction: Literal["b", "f"] = query(name="dir")
    start: str | None = query(name="from", default=None)
    to: str | None = query(default=None)
    limit: int | None = query(default=None, parse=parse_limit)
    wanted: EventFilter = query(name="filter", default=ANY_EVENT, parse=parse_filter)


@attrs.frozen
class GetContext:
    """Ask for what happened around an event."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)
    limit: int = query(default=DEFAULT_LIMIT, parse=parse_limit)
    wanted: EventFilter = query(name="filter", default=ANY_EVENT, parse=parse_filter)


@attrs.frozen
class GetEvent:
    """Ask for one event of a room."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)


@attrs.frozen
class GetAnyEvent:
    """Ask for one event of whatever room."""

    requester: Requester
    event_id: EventID = path(parse=parse_event_id)


@attrs.frozen
class GetByTime:
    """Ask for the event closest to a time."""

    requester: Requester
    room_id: RoomID = path()
    ts: int = query()
    direction: Literal["b", "f"] = query(name="dir")


@attrs.frozen
class RoomMessagesApi:
    """Reading rooms' history."""

    timelines: Timelines

    @route("GET", "/_matrix/client/v3/rooms/{room_id}/messages", auth=USER_OR_GUEST, fresh=always)
    async def messages(self, request: GetMessages) -> MessagesPage:
        """Spec: client-server API, GET /rooms/{roomId}/messages."""
        ask = MessagesAsk(
            request.room_id,
            request.direction,
            request.start or None,
            request.to or None,
            request.limit,
            request.wanted,
        )
        return await self.timelines.messages(request.requester, ask)

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/context/{event_id}",
        auth=USER_OR_GUEST,
        fresh=always,
    )
    async def context(self, request: GetContext) -> ContextPage:
        """Spec: client-server API, GET /rooms/{roomId}/context/{eventId}."""
        return await self.timelines.context(
            request.requester, request.room_id, request.event_id, request.limit, request.wanted
        )

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/event/{event_id}",
        auth=USER_OR_GUEST,
        fresh=always,
    )
    async def event(self, request: GetEvent) -> bytes:
        """Spec: client-server API, GET /rooms/{roomId}/event/{eventId}."""
        return await self.timelines.event(request.requester, request.event_id, request.room_id)

    @route("GET", "/_matrix/client/v3/events/{event_id}", auth=USER, fresh=always)
    async def any_event(self, request: GetAnyEvent) -> bytes:
        """Spec: client-server API, GET /events/{eventId}, deprecated."""
        return await self.timelines.event(request.requester, request.event_id)

    @route(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/timestamp_to_event",
        auth=USER,
        also=["/_matrix/client/unstable/org.matrix.msc3030/rooms/{room_id}/timestamp_to_event"],
        fresh=always,
    )
    async def by_time(self, request: GetByTime) -> FoundByTime:
        """Spec: client-server API, GET /rooms/{roomId}/timestamp_to_event."""
        return await self.timelines.at_time(
            request.requester, request.room_id, request.ts, request.direction
        )
