"""Fetching of single events of a room, and of the states before them, from other servers.

Rules:

- One `RoomFetch` requests at most MAX_SINGLE_EVENTS events one by one, several at a time. If more
  events of a state are unknown, the whole state is requested, and only these events are kept.
- Whole states are fetched one after the other, by all users of one `StateFetcher`. The wait for it
  is not part of the time of a fetch: servers that send theirs slowly delay others, not more.
- A server that gave no valid response, not even an error, is not asked again in this fetch.
- Only events of the room are returned; the caller has everything else about them checked.

Spec: server-server API, Retrieving events.
"""

import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.core.errors import InvalidEvent, RemoteFault
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName
from hs.services.federation.requests import events as requests
from hs.services.federation.requests.events import ParsePdu
from hs.services.federation_client.client import FederationClient
from hs.storage.database import Database
from hs.storage.rooms import events as event_rows

MAX_SINGLE_EVENTS: Final = 100
SINGLE_EVENTS_AT_ONCE: Final = 10
MAX_UNKNOWN_STATE: Final = 30_000
MIN_PDUS_FOR_THREAD: Final = 100

T = TypeVar("T")


@attrs.frozen(eq=False)
class StateFetcher:
    """Begins fetches; what they have in common."""

    _client: FederationClient
    _database: Database
    _whole_states: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(1))

    def begin(
        self,
        room_id: RoomID,
        servers: Collection[ServerName],
        parse: ParsePdu,
        held: Mapping[EventID, Event],
    ) -> "RoomFetch":
        """Begin to fetch events of a room; servers are asked in their order.

        `held` are events obtained otherwise; they may be added to. Those that belong to a state
        are used for it and not requested.
        """

        def parse_in_room(pdu: Any) -> Event:
            event = parse(pdu)
            if event.room_id != room_id:
                raise InvalidEvent("It belongs to another room")
            return event

        return RoomFetch(
            self._client,
            self._database,
            self._whole_states,
            room_id=room_id,
            servers=list(servers),
            parse=parse_in_room,
            held=held,
        )


@attrs.define(eq=False)
class RoomFetch:
    """One fetch: the servers still to be asked, what was obtained, and what failed.

    A caller that wants a limited time enters `scope` and sets its deadline.
    """

    _client: FederationClient
    _database: Database
    _whole_states: trio.Semaphore
    room_id: RoomID = attrs.field(kw_only=True)
    _servers: list[ServerName] = attrs.field(kw_only=True)
    _parse: ParsePdu = attrs.field(kw_only=True)
    _held: Mapping[EventID, Event] = attrs.field(kw_only=True)
    state_events: dict[EventID, Event] = attrs.Factory(dict)
    faults: list[RemoteFault] = attrs.Factory(list)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _single_requests: int = 0

    @property
    def servers(self) -> list[ServerName]:
        """The servers that may be asked."""
        return list(self._servers)

    async def ask_in_turn(self, ask: Callable[[ServerName], Awaitable[T]]) -> T | None:
        """Return the first successful response of a server; None if there is none."""
        for server in self.servers:
            try:
                return await ask(server)
            except RemoteFault as fault:
                self._note(fault)
        return None

    async def unknown(self, event_ids: Collection[EventID]) -> set[EventID]:
        """Return those of the events that are not stored."""
        if not event_ids:
            return set()
        known = await self._database.read(event_rows.stream_ids_of, list(event_ids))
        return {each for each in event_ids if each not in known}

    async def state_before(self, server: ServerName, event_id: EventID) -> list[EventID] | None:
        """Return the state before an event and fetch its events; None if not all were obtained."""
        if server not in self._servers:
            return None
        try:
            return await self._fetch_state(server, event_id)
        except RemoteFault as fault:
            self._note(fault)
            return None

    async def _fetch_state(self, server: ServerName, event_id: EventID) -> list[EventID] | None:
        state, auth_chain = await requests.get_state_ids(
            self._client, server, self.room_id, event_id
        )
        wanted = await self.unknown({*state, *auth_chain})
        wanted -= self.state_events.keys()
        if len(wanted) > MAX_UNKNOWN_STATE:
            self.faults.append(RemoteFault(server, f"too much state at {event_id}", retry=False))
            return None
        for each in wanted & self._held.keys():
            # It may come after this event in the order of processing, so it is an outlier first.
            self.state_events[each] = self._held[each]
        wanted -= self._held.keys()
        if len(wanted) > MAX_SINGLE_EVENTS - self._single_requests:
            async with self._turn_for_whole_state():
                found = await requests.get_state(
                    self._client, server, self.room_id, event_id, wanted=wanted, parse=self._parse
                )
            self.state_events.update(found)
        else:
            self.state_events.update(await self.single_events(wanted, server))
        if lacking := wanted - self.state_events.keys():
            # Events of the auth chain that no other event cites are not needed.
            obtained = (self.state_events[each] for each in wanted - lacking)
            cited = (each for event in obtained for each in event.auth_events)
            if not lacking.isdisjoint(state) or not lacking.isdisjoint(cited):
                return None
        return state

    @asynccontextmanager
    async def _turn_for_whole_state(self) -> AsyncIterator[None]:
        """Wait until no other whole state is fetched; the time of this fetch does not go on."""
        remaining_s = self.scope.deadline - trio.current_time()
        self.scope.deadline = math.inf
        async with self._whole_states:
            self.scope.deadline = trio.current_time() + remaining_s
            yield

    async def single_events(
        self, event_ids: Collection[EventID], first: ServerName | None = None
    ) -> dict[EventID, Event]:
        """Fetch events one by one, several at once; within the bound of the whole fetch."""
        wanted = sorted(event_ids)[: max(0, MAX_SINGLE_EVENTS - self._single_requests)]
        self._single_requests += len(wanted)
        servers = [first] if first is not None else []
        servers += [server for server in self._servers if server != first]
        found: dict[EventID, Event] = {}
        remaining = iter(wanted)

        async def work() -> None:
            for event_id in remaining:
                event = await self._fetch_event(event_id, servers)
                if event is not None:
                    found[event_id] = event

        async with trio.open_nursery() as nursery:
            for _ in range(min(SINGLE_EVENTS_AT_ONCE, len(wanted))):
                nursery.start_soon(work)
        return found

    async def _fetch_event(self, event_id: EventID, servers: Sequence[ServerName]) -> Event | None:
        for server in servers:
            if server not in self._servers:
                continue
            try:
                pdu = await requests.get_event(self._client, server, event_id)
            except RemoteFault as fault:
                self._note(fault)
                continue
            event = next(iter(_parsed([pdu], self._parse)), None)
            if event is not None and event.event_id == event_id:
                return event
        return None

    def _note(self, fault: RemoteFault) -> None:
        self.faults.append(fault)
        if fault.error is None:
            self._servers = [server for server in self._servers if server != fault.server]

    async def parse(self, pdus: Sequence[Any]) -> dict[EventID, Event]:
        """Return those PDUs that are events of the room."""
        if len(pdus) < MIN_PDUS_FOR_THREAD:
            events = _parsed(pdus, self._parse)
        else:
            events = await trio.to_thread.run_sync(_parsed, pdus, self._parse)
        return {event.event_id: event for event in events}


def _parsed(pdus: Iterable[Any], parse: ParsePdu) -> list[Event]:
    events = []
    for pdu in pdus:
        try:
            events.append(parse(pdu))
        except InvalidEvent:
            continue
    return events
