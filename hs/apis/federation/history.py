"""What other servers ask about the events of rooms.

The services check that this server and the asking one are in the room.
"""

from collections.abc import AsyncIterator
from typing import Any, Literal

import attrs
import orjson

from hs.apis.web.auth import FEDERATION
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Response
from hs.apis.web.request import body, origin, path, query
from hs.apis.web.route import always, route
from hs.core.ids import EventID, RoomID, ServerName, parse_event_id
from hs.lib.clock import Clock
from hs.services.federation.history.served_events import (
    MissingEventsQuery,
    ServedEvents,
    TimedEventQuery,
)
from hs.services.federation.history.served_spaces import ServedHierarchy, ServedSpaces
from hs.services.federation.history.served_state import ServedState, ServedStateIds

_PREFIX = "/_matrix/federation/v1"


@attrs.frozen
class ServeEventRequest:
    """GET /event/{eventId}."""

    origin: ServerName = origin()
    event_id: EventID = path(parse=parse_event_id)


@attrs.frozen
class ServeStateRequest:
    """GET /state/{roomId}, GET /state_ids/{roomId}."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    event_id: EventID = query(parse=parse_event_id)


@attrs.frozen
class ServeAuthChainRequest:
    """GET /event_auth/{roomId}/{eventId}."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)


@attrs.frozen
class ServeBackfillRequest:
    """GET /backfill/{roomId}."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    limit: int = query()
    event_ids: list[str] = query(name="v", factory=list)


@attrs.frozen
class ServeMissingEventsRequest:
    """POST /get_missing_events/{roomId}; some servers leave out empty lists."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    earliest_events: list[EventID] = body(factory=list)
    latest_events: list[EventID] = body(factory=list)
    limit: int = body(default=10)
    min_depth: int = body(default=0)


@attrs.frozen
class ServeTimedEventRequest:
    """GET /timestamp_to_event/{roomId}."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    ts: int = query()
    direction: Literal["b", "f"] = query(name="dir")


@attrs.frozen
class ServeHierarchyRequest:
    """GET /hierarchy/{roomId}."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    suggested_only: bool = query(default=False)


@attrs.frozen
class PduTransaction:
    """Events in the form of a transaction."""

    origin: ServerName
    origin_server_ts: int
    pdus: list[Any]


@attrs.frozen
class ServedMissingEvents:
    """The events that a server is missing."""

    events: list[Any]


@attrs.frozen
class ServedTimedEvent:
    """The event closest to a time."""

    event_id: EventID
    origin_server_ts: int


@attrs.frozen
class RoomHistoryApi:
    """Endpoints that read events for other servers."""

    server_name: ServerName
    clock: Clock
    events: ServedEvents
    states: ServedState
    spaces: ServedSpaces

    @route(
        "GET",
        f"{_PREFIX}/event/{{event_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
    )
    async def get_event(self, request: ServeEventRequest) -> PduTransaction:
        """Spec: server-server API, Retrieving events."""
        return self._transaction([await self.events.event(request.origin, request.event_id)])

    @route(
        "GET",
        f"{_PREFIX}/backfill/{{room_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
    )
    async def backfill(self, request: ServeBackfillRequest) -> PduTransaction:
        """Spec: server-server API, Backfilling and retrieving missing events."""
        event_ids = [parse_event_id(event_id) for event_id in request.event_ids]
        return self._transaction(
            await self.events.backfill(request.origin, request.room_id, event_ids, request.limit)
        )

    @route(
        "POST",
        f"{_PREFIX}/get_missing_events/{{room_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
    )
    async def get_missing_events(self, request: ServeMissingEventsRequest) -> ServedMissingEvents:
        """Spec: server-server API, Backfilling and retrieving missing events."""
        missing = MissingEventsQuery(
            room_id=request.room_id,
            earliest=request.earliest_events,
            latest=request.latest_events,
            limit=request.limit,
            min_depth=request.min_depth,
        )
        return ServedMissingEvents(
            _fragments(await self.events.missing_events(request.origin, missing))
        )

    @route(
        "GET",
        f"{_PREFIX}/state/{{room_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
    )
    async def get_state(self, request: ServeStateRequest) -> Response:
        """Spec: server-server API, Retrieving events."""
        parts = await self.states.state(request.origin, request.room_id, request.event_id)
        return _streamed(parts)

    @route(
        "GET",
        f"{_PREFIX}/state_ids/{{room_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
    )
    async def get_state_ids(self, request: ServeStateRequest) -> ServedStateIds:
        """Spec: server-server API, Retrieving events."""
        return await self.states.state_ids(request.origin, request.room_id, request.event_id)

    @route(
        "GET",
        f"{_PREFIX}/event_auth/{{room_id}}/{{event_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
    )
    async def get_event_auth(self, request: ServeAuthChainRequest) -> Response:
        """Spec: server-server API, GET /event_auth/{roomId}/{eventId}."""
        parts = await self.states.auth_chain(request.origin, request.room_id, request.event_id)
        return _streamed(parts)

    @route(
        "GET",
        f"{_PREFIX}/timestamp_to_event/{{room_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
    )
    async def get_event_by_timestamp(self, request: ServeTimedEventRequest) -> ServedTimedEvent:
        """Spec: server-server API, Retrieving events."""
        timed = TimedEventQuery(request.room_id, request.ts, request.direction)
        return ServedTimedEvent(*await self.events.at_time(request.origin, timed))

    @route(
        "GET",
        f"{_PREFIX}/hierarchy/{{room_id}}",
        auth=FEDERATION,
        fresh=always,
        work=WorkClass.FEDERATION,
        cancel_on_disconnect=True,
    )
    async def get_hierarchy(self, request: ServeHierarchyRequest) -> ServedHierarchy:
        """Spec: server-server API, Spaces."""
        return await self.spaces.hierarchy(request.origin, request.room_id, request.suggested_only)

    def _transaction(self, pdus: list[bytes]) -> PduTransaction:
        return PduTransaction(self.server_name, self.clock.now_ms(), _fragments(pdus))


def _fragments(pdus: list[bytes]) -> list[Any]:
    return [orjson.Fragment(pdu) for pdu in pdus]


def _streamed(parts: AsyncIterator[bytes]) -> Response:
    return Response(200, {"content-type": "application/json"}, parts)
