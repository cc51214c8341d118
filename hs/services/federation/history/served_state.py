"""The state of rooms at events, and auth chains, that other servers ask for.

Rules:

- The asking server must be or have been in the room, and be allowed to see the event itself. State
  events are not redacted: a server that may see an event may read the state before it.
- Events are sent in parts (`streamed_events`).

Spec: server-server API, Retrieving events; Retrieves the complete auth chain.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs

from hs.core.errors import Forbidden, NotFound
from hs.core.ids import EventID, RoomID, ServerName
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.access.streamed_events import StreamedEvents
from hs.services.federation.history.server_visibility import ServerVisibility
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import EventStatus, StoredEvent

IDS_AT_ONCE: Final = 5000  # looking up the places of this many takes about 10 ms


@attrs.frozen
class ServedStateIds:
    """The state before an event and its auth chain."""

    pdu_ids: Sequence[EventID]
    auth_chain_ids: Sequence[EventID]


@attrs.frozen(eq=False)
class ServedState:
    """Reads state and auth chains for other servers."""

    _events: EventStore
    _states: StateStore
    _graph: AuthGraph
    _access: ServerAccess
    _visibility: ServerVisibility
    _streamed: StreamedEvents

    async def state_ids(
        self, origin: ServerName, room_id: RoomID, event_id: EventID
    ) -> ServedStateIds:
        """Return the IDs of the state before an event. Raises: NotFound, Forbidden."""
        stored = await self._event(origin, room_id, event_id)
        if stored.snapshot_id is None:
            raise NotFound(f"The state at event {event_id} is not known")
        state = list((await self._states.at_snapshot(stored.snapshot_id)).values())
        return ServedStateIds(state, await self._auth_chain(state))

    async def state(
        self, origin: ServerName, room_id: RoomID, event_id: EventID
    ) -> AsyncIterator[bytes]:
        """Return the JSON of the state before an event, in parts. Raises: NotFound, Forbidden."""
        ids = await self.state_ids(origin, room_id, event_id)
        return self._streamed.encode({"pdus": ids.pdu_ids, "auth_chain": ids.auth_chain_ids})

    async def auth_chain(
        self, origin: ServerName, room_id: RoomID, event_id: EventID
    ) -> AsyncIterator[bytes]:
        """Return the JSON of an event's auth chain, in parts. Raises: NotFound, Forbidden."""
        stored = await self._event(origin, room_id, event_id)
        cited = stored.event.auth_events
        chain = dict.fromkeys((*cited, *await self._auth_chain(cited)))
        return self._streamed.encode({"auth_chain": list(chain)})

    async def _event(self, origin: ServerName, room_id: RoomID, event_id: EventID) -> StoredEvent:
        is_present = await self._access.check_was_in_room(origin, room_id)
        stored = await self._events.get_one(event_id)
        if (
            stored is None
            or stored.event.room_id != room_id
            or stored.status == EventStatus.REJECTED
        ):
            raise NotFound(f"Could not find event {event_id}")
        visibility = self._visibility
        see = visibility.visible_ids if is_present else visibility.visible_to_departed
        if not await see(origin, room_id, (stored,)):
            raise Forbidden("You do not have permission to access the state at the event")
        return stored

    async def _auth_chain(self, event_ids: Sequence[EventID]) -> list[EventID]:
        chain: set[EventID] = set()
        for start in range(0, len(event_ids), IDS_AT_ONCE):
            chain |= await self._graph.chain_of(event_ids[start : start + IDS_AT_ONCE])
        return list(chain)
