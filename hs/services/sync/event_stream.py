"""The event stream of the deprecated `GET /events`, of all rooms or of one room.

`room_id` allows users to peek into a room that they are not joined to. A page with more events than
the limit is truncated; its end token then holds, for each writer, the last event that was returned,
so that the next request continues there.

Spec: client-server API, `GET /events`, with and without `room_id`.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final

import attrs
import immutables
import orjson
import trio

from hs.core.events import event_types
from hs.core.filters import NO_FILTER
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.services.ephemeral.presence import PresenceService
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.visibility import VisibleEvent
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.sync.account_data_section import with_content_user_id
from hs.services.sync.lazy_members import NOTHING_SENT
from hs.services.sync.notifier import Notifier, Watch
from hs.services.sync.positions import PositionsLate, SyncPositions
from hs.services.sync.room_ephemeral import account_data_event, with_room_id
from hs.services.sync.room_readers import RoomReaders
from hs.services.sync.sync_context import (
    DEFAULT_TIMELINE_LIMIT,
    CompiledFilter,
    SyncContext,
    SyncRequest,
)
from hs.services.sync.sync_gate import SyncGate
from hs.services.sync.sync_service import CATCH_UP_S, MAX_TIMEOUT_MS, SyncSections
from hs.storage.rooms import timelines

MAX_EVENTS: Final = 100

_NO_FILTER: Final = CompiledFilter(NO_FILTER, 0, DEFAULT_TIMELINE_LIMIT)


@attrs.frozen
class EventsRequest:
    """The parameters of `/events`: a start token (None: now), and optionally one room."""

    requester: Requester
    start: str | None
    timeout_ms: int
    limit: int = MAX_EVENTS
    room_id: RoomID | None = None


@attrs.frozen
class EventStreamPage:
    """The events between two tokens."""

    start: str
    end: str
    chunk: orjson.Fragment


@attrs.frozen(eq=False)
class _EventBatch:
    token: SyncToken
    chunk: list[bytes]
    is_complete: bool


@attrs.frozen(order=True)
class _Arrival:
    stream_id: int
    writer: str
    event_id: EventID


@attrs.frozen(eq=False)
class EventStream:
    """The service of `/events`."""

    _readers: RoomReaders
    _positions: SyncPositions
    _notifier: Notifier
    _presence: PresenceService
    _showing: EventSerializer
    _sections: SyncSections
    _gate: SyncGate

    async def events(self, request: EventsRequest) -> EventStreamPage:
        """Return the events after the start token; wait for some until the timeout.

        Raises: InvalidParam if the token is invalid; Forbidden if the user may not read the room;
            LimitExceeded if too many requests are being computed.
        """
        position = self._positions.now()
        start = position.text if request.start is None else request.start
        since = position.token if request.start is None else self._positions.parse(request.start)
        requester = request.requester
        if request.room_id is not None:
            await self._readers.visibility.check_may_read(requester.user_id, request.room_id)
        with self._presence.syncing(requester.user_id, requester.device_id, "online"):
            try:
                since = (
                    await self._positions.reach(since, CATCH_UP_S) or self._positions.now().token
                )
            except PositionsLate:
                return EventStreamPage(start, start, json_array(()))
            rooms = await self._readers.memberships.rooms_of(requester.user_id)
            with self._watching(request, rooms) as watch:
                return await self._wait(request, start, since, watch)

    def _watching(self, request: EventsRequest, rooms: RoomsOf) -> AbstractContextManager[Watch]:
        user_id = request.requester.user_id
        if request.room_id is not None:
            return self._notifier.peeking(user_id, request.room_id)
        # The feed may have delivered changes after the read, before this task resumed.
        rooms = self._readers.memberships.rooms_of_nowait(user_id) or rooms
        joined = [room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN]
        return self._notifier.watching(user_id, joined)

    async def _wait(
        self, request: EventsRequest, start: str, since: SyncToken, watch: Watch
    ) -> EventStreamPage:
        deadline = trio.current_time() + min(request.timeout_ms, MAX_TIMEOUT_MS) / 1000
        while True:
            changes = watch.changes
            if self._positions.covers(since) and since != self._positions.now().token:
                async with self._gate.of_user(request.requester.user_id):
                    batch = await self._events_since(request, since)
                if batch.chunk:
                    return EventStreamPage(start, batch.token.encode(), json_array(batch.chunk))
                since = batch.token
                if not batch.is_complete:
                    continue
            if self._notifier.is_leaving or trio.current_time() >= deadline:
                return EventStreamPage(start, since.encode(), json_array(()))
            await self._notifier.wait(watch, changes, deadline)

    async def _events_since(self, request: EventsRequest, since: SyncToken) -> _EventBatch:
        context = await self._context(request, since)
        arrivals = await self._arrivals(context, request.limit)
        page = arrivals[: request.limit]
        chunk = await self._render(request.requester, page)
        chunk += await self._other_events(context, request)
        token = context.position.token
        if len(arrivals) > len(page):
            events = since.events
            for arrival in page:
                events = events.advance(arrival.writer, arrival.stream_id)
            token = attrs.evolve(token, events=events)
        return _EventBatch(token, chunk, len(arrivals) == len(page))

    async def _context(self, events_request: EventsRequest, since: SyncToken) -> SyncContext:
        user_id = events_request.requester.user_id
        ignored = await self._readers.visibility.ignored_by(user_id)
        rooms = await self._readers.memberships.rooms_of(user_id)
        position = self._positions.now()
        rooms = self._readers.memberships.rooms_of_nowait(user_id) or rooms
        if events_request.room_id is not None:
            # A peeking user gets the events that a member would get.
            as_member = LocalMembership(event_types.JOIN, EventID(""), 0, user_id)
            rooms = immutables.Map(
                {events_request.room_id: rooms.get(events_request.room_id, as_member)}
            )
            if rooms[events_request.room_id].membership != event_types.JOIN:
                rooms = immutables.Map({events_request.room_id: as_member})
        viewer = self._readers.rendering.viewer(events_request.requester, ignored)
        sync_request = SyncRequest(events_request.requester)
        return SyncContext(
            request=sync_request,
            compiled_filter=_NO_FILTER,
            since=since,
            position=position,
            rooms=rooms,
            ignored=ignored,
            viewer=viewer,
            sent_members=NOTHING_SENT,
        )

    # Events

    async def _arrivals(self, context: SyncContext, limit: int) -> list[_Arrival]:
        """Return the new events in stream order, at most one more than the limit."""
        assert context.since is not None
        since = context.since.events
        changed_rooms = self._readers.tails.rooms_since(since)
        arrivals: set[_Arrival] = set()
        for room_id, own in context.rooms.items():
            if own.membership == event_types.JOIN:
                if changed_rooms is None or room_id in changed_rooms:
                    arrivals.update(await self._in_room(context, room_id, limit + 1))
            elif own.stream_id > since.floor and own.sender not in context.ignored:
                arrivals.update(await self._until_left(context, room_id, own, limit + 1))
        return sorted(arrivals)[: limit + 1]

    async def _in_room(self, context: SyncContext, room_id: RoomID, limit: int) -> list[_Arrival]:
        assert context.since is not None
        entries: Iterable[_Arrival]
        recent = self._readers.tails.since(room_id, context.since.events)
        if recent is not None:
            entries = (_Arrival(entry.stream_id, entry.writer, entry.event_id) for entry in recent)
        else:
            after, upto = context.since.events.floor, context.events_position.most()
            rows = await self._readers.database.read(
                timelines.arrived_between, room_id, after, upto, limit
            )
            entries = (_Arrival(row.stream_id, row.writer, EventID(row.event_id)) for row in rows)
        return [
            arrival
            for arrival in entries
            if _is_between(arrival, context.since.events, context.events_position)
        ][:limit]

    async def _until_left(
        self, context: SyncContext, room_id: RoomID, own: LocalMembership, limit: int
    ) -> list[_Arrival]:
        """Return the events until the user left; of an invite or knock, only the user's event."""
        assert context.since is not None
        stored = await self._readers.events.get_one(own.event_id)
        if stored is None:
            return []
        last = _Arrival(stored.stream_id, stored.writer, stored.event_id)
        if not _is_between(last, context.since.events, context.events_position):
            return []
        if own.membership in (event_types.INVITE, event_types.KNOCK):
            return [last]
        earlier = await self._in_room(context, room_id, limit)
        return [*(arrival for arrival in earlier if arrival.stream_id < last.stream_id), last]

    async def _render(self, requester: Requester, arrivals: Sequence[_Arrival]) -> list[bytes]:
        events = await self._readers.events.get(arrival.event_id for arrival in arrivals)
        visible = await self._readers.visibility.filter_visible(
            requester.user_id, list(events.values())
        )
        seen = {view.stored.event_id: view for view in visible}
        for event_id, stored in events.items():
            event = stored.event
            if event.type == event_types.MEMBER and event.state_key == requester.user_id:
                # Users always get their own membership events, even if they may not see the room.
                own = VisibleEvent(stored, str(event.content.get("membership")))
                seen.setdefault(event_id, own)
        chosen = [seen[event_id] for event_id in events if event_id in seen]
        return await self._showing.timeline(requester, chosen)

    # Account data, presence and ephemeral events

    async def _other_events(self, context: SyncContext, request: EventsRequest) -> list[bytes]:
        sections = self._sections
        if request.room_id is None:
            presence = await sections.presence.render(context, ())
        else:
            presence = await sections.presence.render_room(context, request.room_id)
        entries = await sections.account_data.load(context, ())
        room_events = await sections.ephemeral.load(context, (), ())
        return [
            *(with_content_user_id(event) for event in presence),
            *(
                with_room_id(room_id, event)
                for room_id, events in room_events.ephemeral.items()
                for event in events
            ),
            *(
                event if room_id is None else with_room_id(room_id, event)
                for room_id, event in [
                    (entry.room_id, account_data_event(entry.type, entry.content))
                    for entry in entries
                ]
                if request.room_id is None or room_id == request.room_id
            ),
        ]


def _is_between(arrival: _Arrival, since: VectorPosition, upto: VectorPosition) -> bool:
    return upto.covers(arrival.writer, arrival.stream_id) and not since.covers(
        arrival.writer, arrival.stream_id
    )
