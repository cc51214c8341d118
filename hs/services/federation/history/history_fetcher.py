"""Fetching of history from one server, to be stored by the owner of the room.

Rules:

- Only events are used to which prev_events lead from a stored event; the owner of the room checks
  that again, and everything else about them.
- State events and auth events are stored first, as outliers, a few hundred at a time, so that the
  room is not locked for long. If the server does not have all of the state before an event,
  nothing is stored.

Spec: server-server API, Backfilling and retrieving missing events; Retrieving events.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from hs.core.errors import RemoteFault
from hs.core.events.event import Event
from hs.core.events.format import parse_old_pdu
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.versions import room_version
from hs.services.federation.history.state_fetcher import RoomFetch, StateFetcher
from hs.services.federation.requests.events import backfill
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.receive.event_receiver import PduOutcome, RoomReceiver
from hs.services.rooms.receive.graph_order import auth_order
from hs.storage.database import Database
from hs.storage.rooms import gaps, rooms

MAX_EVENTS: Final = 100
MAX_EDGES: Final = 5
OUTLIERS_AT_ONCE: Final = 300

_STORED: Final = frozenset((PduOutcome.ACCEPTED, PduOutcome.SOFT_FAILED, PduOutcome.REJECTED))

Events = Mapping[EventID, Event]


@attrs.frozen(eq=False)
class HistoryFetcher:
    """Fetches history from one server and has the owner of the room store it."""

    _client: FederationClient
    _database: Database
    _receiver: RoomReceiver
    _fetcher: StateFetcher

    async def receive_before(
        self, server: ServerName, room_id: RoomID, event_ids: Sequence[EventID]
    ) -> bool:
        """Store events at and before the missing ones; return whether any were stored.

        Raises: RemoteFault; NotFound and others of RoomReceiver.
        """
        events: dict[EventID, Event] = {}
        fetch = await self._begin(server, room_id, events)
        if fetch is None:
            return False
        pdus = await backfill(self._client, server, room_id, event_ids, MAX_EVENTS)
        events.update(_leading_back(await fetch.parse(pdus), event_ids))
        return bool(events) and await self._receive(server, fetch, events, [])

    async def receive_single(self, server: ServerName, room_id: RoomID, event_id: EventID) -> bool:
        """Store an event anywhere in a room's history; return whether it is stored.

        Raises: RemoteFault; NotFound and others of RoomReceiver.
        """
        if (await self._stored([event_id])).get(event_id):
            return True
        events: dict[EventID, Event] = {}
        fetch = await self._begin(server, room_id, events)
        if fetch is None:
            return False
        events.update(await fetch.single_events([event_id]))
        return bool(events) and await self._receive(server, fetch, events, [event_id])

    async def _begin(self, server: ServerName, room_id: RoomID, held: Events) -> RoomFetch | None:
        """Begin to fetch from one server; None if the room is not known."""
        versions = await self._database.read(rooms.versions, [room_id])
        if room_id not in versions:
            return None
        parse = partial(parse_old_pdu, rules=room_version(versions[room_id]))
        return self._fetcher.begin(room_id, [server], parse, held)

    async def _receive(
        self, server: ServerName, fetch: RoomFetch, events: Events, asked_for: list[EventID]
    ) -> bool:
        states = await self._states(server, fetch, events)
        await self._store_auth_events(fetch, events)
        pdus = [event.canonical for event in events.values()]
        result = await self._receiver.backfill(fetch.room_id, pdus, [], states, asked_for)
        return any(verdict.outcome in _STORED for verdict in result.verdicts)

    async def _states(
        self, server: ServerName, fetch: RoomFetch, events: Events
    ) -> dict[EventID, list[EventID]]:
        """Store the state before the events whose prev_events are missing; return its IDs."""
        stored = await self._stored(
            {*events, *(each for event in events.values() for each in event.prev_events)}
        )
        # The response also has events that are stored already and follow other gaps.
        edges = [
            event
            for event in events.values()
            if not stored.get(event.event_id)
            and any(each not in events and not stored.get(each) for each in event.prev_events)
        ]
        edges.sort(key=lambda event: event.depth, reverse=True)
        states: dict[EventID, list[EventID]] = {}
        for edge in edges[:MAX_EDGES]:
            state = await fetch.state_before(server, edge.event_id)
            if state is None:
                lacking = RemoteFault(server, f"it lacks state at {edge.event_id}", retry=False)
                raise fetch.faults[-1] if fetch.faults else lacking
            states[edge.event_id] = state
        await self._store_outliers(fetch.room_id, fetch.state_events.values())
        return states

    async def _store_auth_events(self, fetch: RoomFetch, events: Events) -> None:
        cited = {each for event in events.values() for each in event.auth_events}
        missing = await fetch.unknown(cited - events.keys())
        fetched = await fetch.single_events(missing)
        await self._store_outliers(fetch.room_id, fetched.values())

    async def _store_outliers(self, room_id: RoomID, events: Iterable[Event]) -> None:
        ordered = await trio.to_thread.run_sync(auth_order, list(events))
        for start in range(0, len(ordered), OUTLIERS_AT_ONCE):
            part = ordered[start : start + OUTLIERS_AT_ONCE]
            await self._receiver.backfill(room_id, [], [event.canonical for event in part], {}, [])

    async def _stored(self, event_ids: Collection[EventID]) -> Mapping[EventID, bool]:
        rows = await self._database.read(gaps.stored_events, list(event_ids))
        return {EventID(event_id): has_state for event_id, has_state in rows.items()}


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
