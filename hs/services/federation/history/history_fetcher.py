"""Fetching of history from one server, to be stored by the owner of the room.

Rules:

- Only events are used to which prev_events lead from a stored event; the owner of the room checks
  that again, and everything else about them.
- State events and auth events are stored first, as outliers, a few hundred at a time, so that the
  room is not locked for long. An event is left out if the server does not have all of the state
  before it. Whole states are fetched one after the other.

Spec: server-server API, Backfilling and retrieving missing events; Retrieving events.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio

from hs.core.errors import InvalidEvent, RemoteFault
from hs.core.events.event import Event
from hs.core.events.format import parse_old_pdu
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.versions import RoomVersion, room_version
from hs.services.federation.requests.events import (
    backfill,
    get_event,
    get_state,
    get_state_ids,
)
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.receive.event_receiver import PduOutcome, RoomReceiver
from hs.services.rooms.receive.graph_order import auth_order
from hs.storage.database import Database
from hs.storage.rooms import gaps, rooms

MAX_EVENTS: Final = 100
MAX_EDGES: Final = 5
MAX_SINGLE_EVENTS: Final = 30  # more are fetched together with the rest of the state
MAX_UNKNOWN_STATE: Final = 30_000
EVENTS_AT_ONCE: Final = 5
OUTLIERS_AT_ONCE: Final = 300

_STORED: Final = frozenset((PduOutcome.ACCEPTED, PduOutcome.SOFT_FAILED, PduOutcome.REJECTED))

Events = Mapping[EventID, Event]


@attrs.frozen(eq=False)
class HistoryFetcher:
    """Fetches history from one server and has the owner of the room store it."""

    _client: FederationClient
    _database: Database
    _receiver: RoomReceiver
    _whole_states: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(1))

    async def receive_before(
        self, server: ServerName, room_id: RoomID, event_ids: Sequence[EventID]
    ) -> bool:
        """Store events at and before the missing ones; return whether any were stored.

        Raises: RemoteFault; NotFound and others of RoomReceiver.
        """
        versions = await self._database.read(rooms.versions, [room_id])
        if room_id not in versions:
            return False
        requests = _RoomRequests(self._client, server, room_id, room_version(versions[room_id]))
        pdus = await backfill(self._client, server, room_id, event_ids, MAX_EVENTS)
        events = _leading_back(await requests.parse(pdus), event_ids)
        return bool(events) and await self._receive(requests, events, [])

    async def receive_single(self, server: ServerName, room_id: RoomID, event_id: EventID) -> bool:
        """Store an event anywhere in a room's history; return whether it is stored.

        Raises: RemoteFault; NotFound and others of RoomReceiver.
        """
        if (await self._stored([event_id])).get(event_id):
            return True
        versions = await self._database.read(rooms.versions, [room_id])
        if room_id not in versions:
            return False
        requests = _RoomRequests(self._client, server, room_id, room_version(versions[room_id]))
        events = await requests.single_events([event_id])
        return bool(events) and await self._receive(requests, events, [event_id])

    async def _receive(
        self, requests: "_RoomRequests", events: Events, asked_for: list[EventID]
    ) -> bool:
        stored = await self._stored(
            {each for event in events.values() for each in (*event.prev_events, *event.auth_events)}
        )
        states = await self._states(requests, events, stored)
        await self._store_auth_events(requests, events)
        pdus = [event.canonical for event in events.values()]
        result = await self._receiver.backfill(requests.room_id, pdus, [], states, asked_for)
        return any(verdict.outcome in _STORED for verdict in result.verdicts)

    async def _states(
        self, requests: "_RoomRequests", events: Events, stored: Mapping[EventID, bool]
    ) -> dict[EventID, list[EventID]]:
        """Store the state before the events whose prev_events are missing; return its IDs."""
        edges = [
            event
            for event in events.values()
            if any(each not in events and not stored.get(each) for each in event.prev_events)
        ]
        edges.sort(key=lambda event: event.depth, reverse=True)
        states: dict[EventID, list[EventID]] = {}
        for edge in edges[:MAX_EDGES]:
            ids = await get_state_ids(
                self._client, requests.server, requests.room_id, edge.event_id
            )
            known = await self._stored({*ids.state, *ids.auth_chain})
            missing = {each for each in (*ids.state, *ids.auth_chain) if each not in known}
            fetched = await self._state_events(requests, missing, edge)
            if any(each not in known and each not in fetched for each in ids.state):
                raise RemoteFault(
                    requests.server, f"it lacks state at {edge.event_id}", retry=False
                )
            await self._store_outliers(requests.room_id, fetched)
            states[edge.event_id] = ids.state
        return states

    async def _state_events(
        self, requests: "_RoomRequests", missing: Collection[EventID], edge: Event
    ) -> dict[EventID, Event]:
        """Return those of the missing events of the state before an event that the server has."""
        if len(missing) <= MAX_SINGLE_EVENTS:
            return await requests.single_events(missing)
        if len(missing) > MAX_UNKNOWN_STATE:
            raise RemoteFault(requests.server, f"too much state at {edge.event_id}", retry=False)
        async with self._whole_states:
            return await get_state(
                self._client,
                requests.server,
                requests.room_id,
                edge.event_id,
                wanted=missing,
                parse=partial(_event_of_room, requests.room_id, requests.rules),
            )

    async def _store_auth_events(self, requests: "_RoomRequests", events: Events) -> None:
        cited = {each for event in events.values() for each in event.auth_events}
        known = await self._stored(cited)
        missing = [each for each in cited if each not in known and each not in events]
        if missing:
            fetched = await requests.single_events(missing[:MAX_SINGLE_EVENTS])
            await self._store_outliers(requests.room_id, fetched)

    async def _store_outliers(self, room_id: RoomID, events: Events) -> None:
        ordered = await trio.to_thread.run_sync(auth_order, list(events.values()))
        for start in range(0, len(ordered), OUTLIERS_AT_ONCE):
            part = ordered[start : start + OUTLIERS_AT_ONCE]
            await self._receiver.backfill(room_id, [], [event.canonical for event in part], {}, [])

    async def _stored(self, event_ids: Collection[EventID]) -> Mapping[EventID, bool]:
        rows = await self._database.read(gaps.stored_events, list(event_ids))
        return {EventID(event_id): has_state for event_id, has_state in rows.items()}


@attrs.frozen(eq=False)
class _RoomRequests:
    """Requests to one server about one room."""

    client: FederationClient
    server: ServerName
    room_id: RoomID
    rules: RoomVersion

    async def parse(self, pdus: Sequence[Any]) -> dict[EventID, Event]:
        """Return those PDUs that are events of the room."""
        return await trio.to_thread.run_sync(_parse, self.room_id, self.rules, pdus)

    async def single_events(self, event_ids: Collection[EventID]) -> dict[EventID, Event]:
        """Return those of the events that the server has."""
        pdus: list[Any] = []
        slots = trio.Semaphore(EVENTS_AT_ONCE)

        async def fetch(event_id: EventID) -> None:
            async with slots:
                try:
                    pdus.append(await get_event(self.client, self.server, event_id))
                except RemoteFault as fault:
                    if fault.error is None:
                        raise

        async with trio.open_nursery() as nursery:
            for event_id in event_ids:
                nursery.start_soon(fetch, event_id)
        events = await self.parse(pdus)
        return {event_id: events[event_id] for event_id in event_ids if event_id in events}


def _parse(room_id: RoomID, rules: RoomVersion, pdus: Sequence[Any]) -> dict[EventID, Event]:
    events: dict[EventID, Event] = {}
    for pdu in pdus:
        try:
            event = _event_of_room(room_id, rules, pdu)
        except InvalidEvent:
            continue
        events[event.event_id] = event
    return events


def _event_of_room(room_id: RoomID, rules: RoomVersion, pdu: Any) -> Event:
    event = parse_old_pdu(pdu, rules)
    if event.room_id != room_id:
        raise InvalidEvent("It belongs to another room")
    return event


def _leading_back(events: Events, event_ids: Sequence[EventID]) -> dict[EventID, Event]:
    """Return the events that can be reached by prev_events from the missing ones."""
    reached: dict[EventID, Event] = {}
    waiting = list(event_ids)
    while waiting:
        event_id = waiting.pop()
        if event_id in events and event_id not in reached:
            reached[event_id] = events[event_id]
            waiting.extend(events[event_id].prev_events)
    return reached
