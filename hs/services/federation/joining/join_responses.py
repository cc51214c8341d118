"""The room that a joining server receives: the state before the join, and its auth chain.

A large room is sent in parts, which are read while the response is sent: the memory that is used
does not depend on the size of the room.

Spec: server-server API, PUT send_join.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs
import orjson

from hs.core.ids import EventID, ServerName
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

EVENTS_AT_ONCE: Final = 500


@attrs.frozen(eq=False)
class JoinedRoom:
    """The events of a response to a join."""

    join: StoredEvent
    state: Sequence[EventID]
    auth_chain: Sequence[EventID]


@attrs.frozen(eq=False)
class JoinResponses:
    """Builds the responses to joins."""

    _server_name: ServerName
    _events: EventStore
    _states: StateStore
    _graph: AuthGraph

    async def room_before(self, join: StoredEvent) -> JoinedRoom:
        """Return what a server that has just joined must know."""
        assert join.snapshot_id is not None
        state = list((await self._states.at_snapshot(join.snapshot_id)).values())
        chain = await self._graph.chain_of([*state, *join.event.auth_events])
        return JoinedRoom(join, state, sorted(chain))

    async def encode(self, room: JoinedRoom) -> AsyncIterator[bytes]:
        """Yield the parts of the JSON object."""
        head = orjson.dumps({"members_omitted": False, "origin": self._server_name})
        yield b'%b,"event":%b,"state":[' % (head[:-1], room.join.event.canonical)
        async for part in self._encode_events(room.state):
            yield part
        yield b'],"auth_chain":['
        async for part in self._encode_events(room.auth_chain):
            yield part
        yield b"]}"

    async def _encode_events(self, event_ids: Sequence[EventID]) -> AsyncIterator[bytes]:
        separator = b""
        for start in range(0, len(event_ids), EVENTS_AT_ONCE):
            ids = event_ids[start : start + EVENTS_AT_ONCE]
            pdus = await self._events.pdus(ids)
            redacted = [event_id for event_id in ids if event_id not in pdus]
            if redacted:
                for event_id, stored in (await self._events.scan(redacted)).items():
                    pdus[event_id] = stored.effective_event.canonical
            if pdus:
                yield separator + b",".join(pdus.values())
                separator = b","
