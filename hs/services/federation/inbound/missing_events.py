"""Fetching of events that received events cite and this server lacks.

Rules:

- A fetched event is used only if an event that is held already cites it, and
  `RoomReceiver.receive` checks it like any other.
- First the events in between are fetched, backwards from the events that wait. If a gap remains,
  the states after the missing events that are cited are fetched, to be resolved with the states
  after the others; if that fails, the state before the event that cites them, as a server that has
  rejected a cited event has no state for it. Missing auth events are fetched last.
- A server has the events that its own events cite. If it responds without any of them, nothing more
  is asked about its events, and the caller need not wait for them.
- Everything is bounded: rounds, events, the size of each response, the requests (see
  StateFetcher), the time. The caller tries again later to fetch what was not found, and gives up
  at last.
- One server is asked for the events in between and for the state, the next ones only if it fails.

Spec: server-server API, Backfilling and retrieving missing events; Retrieving events.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from hs.core.errors import RemoteFault
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, ServerName
from hs.core.versions import RoomVersion
from hs.services.federation.history.state_fetcher import RoomFetch, StateFetcher
from hs.services.federation.requests import events as requests
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.receive.graph_order import auth_order
from hs.services.rooms.store.event_store import EventStore

MAX_ROUNDS: Final = 8
EVENTS_PER_ROUND: Final = 50
MAX_EVENTS_BETWEEN: Final = 200
MAX_LATEST: Final = 20
MAX_GAPS: Final = 5
MAX_STATES_AT_GAP: Final = 3
MAX_AUTH_ROUNDS: Final = 5
FETCH_TIMEOUT_S: Final = 180.0


@attrs.define(eq=False)
class FetchedEvents:
    """Fetched events: those to receive, outliers in their auth order, and states at gaps.

    `unfounded` are the waiting events of which their server has nothing that they cite.
    """

    events: list[Event]
    outliers: list[Event] = attrs.Factory(list)
    states: dict[EventID, list[EventID]] = attrs.Factory(dict)
    faults: list[RemoteFault] = attrs.Factory(list)
    unfounded: frozenset[EventID] = frozenset()

    def found_nothing(self, waiting: int) -> bool:
        """Return whether there is nothing but the events that waited."""
        return len(self.events) == waiting and not self.outliers and not self.states


@attrs.frozen(eq=False)
class MissingEventFetcher:
    """Fetches missing events of rooms that this server is in."""

    _client: FederationClient
    _events: EventStore
    _fetcher: StateFetcher

    async def fetch(
        self,
        rules: RoomVersion,
        servers: Sequence[ServerName],
        waiting: Sequence[Event],
        extremities: Collection[EventID],
    ) -> FetchedEvents:
        """Fetch missing events that events of one room cite; `servers` are asked in their order.

        The first server has sent the events. `extremities` are the room's forward extremities.
        """
        room_id = waiting[0].room_id
        held = {event.event_id: event for event in waiting}
        fetch = self._fetcher.begin(room_id, servers, partial(parse_pdu, rules=rules), held)
        walk = _Walk(self._client, self._events, fetch, held)
        with fetch.scope:
            fetch.scope.deadline = trio.current_time() + FETCH_TIMEOUT_S
            await walk.fetch_between(extremities)
            await walk.fetch_states()
            await walk.fetch_auth_events()
        outliers = list({**walk.auth_events, **fetch.state_events}.values())
        return FetchedEvents(
            events=[each for each in walk.held.values() if each.event_id not in walk.unfounded],
            outliers=auth_order(outliers),
            states=walk.states,
            faults=fetch.faults,
            unfounded=walk.unfounded,
        )


@attrs.define(eq=False)
class _Walk:
    """One fetch. `held` are the events to receive: those that wait, and those in between."""

    _client: FederationClient
    _events: EventStore
    _fetch: RoomFetch
    held: dict[EventID, Event]
    auth_events: dict[EventID, Event] = attrs.Factory(dict)
    states: dict[EventID, list[EventID]] = attrs.Factory(dict)
    unfounded: frozenset[EventID] = frozenset()

    # Events in between

    async def fetch_between(self, extremities: Collection[EventID]) -> None:
        """Fetch the events between those that wait and those that are stored."""
        earliest = list(extremities)[:MAX_LATEST]
        most = len(self.held) + MAX_EVENTS_BETWEEN
        for round_number in range(MAX_ROUNDS):
            gaps = (await self._gaps())[:MAX_LATEST]
            if not gaps or len(self.held) >= most:
                return
            ask = partial(
                requests.get_missing_events,
                self._client,
                room_id=self._fetch.room_id,
                earliest=earliest,
                latest=[event.event_id for event in gaps],
                limit=min(EVENTS_PER_ROUND, most - len(self.held)),
            )
            candidates = await self._fetch.parse(await self._fetch.ask_in_turn(ask) or ())
            if not self._add_cited(candidates):
                if round_number == 0 and not self._fetch.faults:
                    # The server that has sent the events has answered, none of the others.
                    self.unfounded = frozenset(event.event_id for event in gaps)
                return

    def _add_cited(self, candidates: Mapping[EventID, Event]) -> int:
        """Add those candidates that the held events cite, directly or through each other."""
        before = len(self.held)
        unvisited = list(self.held.values())
        while unvisited:
            for cited in unvisited.pop().prev_events:
                if cited in candidates and cited not in self.held:
                    self.held[cited] = candidates[cited]
                    unvisited.append(candidates[cited])
        return len(self.held) - before

    async def _gaps(self) -> list[Event]:
        """Return the held events whose prev_events are neither held nor stored, oldest first."""
        known = await self._with_state(
            {each for event in self.held.values() for each in event.prev_events}
        )
        gaps = [event for event in self.held.values() if not known.issuperset(event.prev_events)]
        return sorted(gaps, key=lambda event: event.depth)

    async def _with_state(self, event_ids: Collection[EventID]) -> set[EventID]:
        """Return those events that are held, or stored with the state before them."""
        held = set(event_ids) & self.held.keys()
        stored = await self._events.get(set(event_ids) - held)
        return held | {each for each, event in stored.items() if event.snapshot_id is not None}

    # The state at gaps

    async def fetch_states(self) -> None:
        """Fetch the states at the gaps that are left."""
        gaps = [each for each in await self._gaps() if each.event_id not in self.unfounded]
        for event in gaps[:MAX_GAPS]:
            missing = sorted(set(event.prev_events) - await self._with_state(event.prev_events))
            for server in self._fetch.servers:
                if len(missing) <= MAX_STATES_AT_GAP and await self._add_states_after(
                    server, missing
                ):
                    break
                state = await self._fetch.state_before(server, event.event_id)
                if state is not None:
                    self.states[event.event_id] = state
                    break

    async def _add_states_after(self, server: ServerName, missing: Sequence[EventID]) -> bool:
        """Fetch the states after missing events; return whether all were obtained."""
        for event_id in missing:
            if event_id in self.states:
                continue
            before = await self._fetch.state_before(server, event_id)
            if before is None:
                return False
            if await self._fetch.unknown([event_id]) and event_id not in self._fetch.state_events:
                found = await self._fetch.single_events([event_id], server)
                if event_id not in found:
                    return False
                if found[event_id].state_key is not None:
                    self._fetch.state_events.update(found)
            self.states[event_id] = [*before, event_id]
        return True

    # Auth events

    async def fetch_auth_events(self) -> None:
        """Fetch the auth events of the held events, and the auth events of those."""
        founded = [each for each in self.held.values() if each.event_id not in self.unfounded]
        wanted = await self._missing_auth_events(founded)
        if not wanted:
            return
        lacking = next(event for event in founded if not wanted.isdisjoint(event.auth_events))
        ask = partial(
            requests.get_event_auth,
            self._client,
            room_id=self._fetch.room_id,
            event_id=lacking.event_id,
        )
        offered = await self._fetch.parse(await self._fetch.ask_in_turn(ask) or ())
        for _ in range(MAX_AUTH_ROUNDS):
            if not wanted:
                return
            found = {each: offered[each] for each in wanted & offered.keys()}
            found.update(await self._fetch.single_events(wanted - offered.keys()))
            self.auth_events.update(found)
            # The offered chain is walked to its end before anything else is asked for.
            while new := self._cited_in(found.values(), offered):
                self.auth_events.update(new)
                found = new
            wanted = await self._missing_auth_events(self.auth_events.values())
            wanted -= self.auth_events.keys()

    def _cited_in(
        self, events: Iterable[Event], offered: Mapping[EventID, Event]
    ) -> dict[EventID, Event]:
        return {
            each: offered[each]
            for event in events
            for each in event.auth_events
            if each in offered and each not in self.auth_events
        }

    async def _missing_auth_events(self, events: Iterable[Event]) -> set[EventID]:
        cited = {each for event in events for each in event.auth_events}
        cited -= self.held.keys()
        cited -= self.auth_events.keys()
        cited -= self._fetch.state_events.keys()
        return await self._fetch.unknown(cited)
