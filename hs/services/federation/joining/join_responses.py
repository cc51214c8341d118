"""The room that a joining server receives: the state before the join, and its auth chain.

It is read in parts while the response is sent (`streamed_events`).

Spec: server-server API, PUT send_join.
"""

from collections.abc import AsyncIterator, Sequence

import attrs
import orjson

from hs.core.ids import EventID, ServerName
from hs.services.federation.access.streamed_events import StreamedEvents
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent


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
    _states: StateStore
    _graph: AuthGraph
    _streamed: StreamedEvents

    async def room_before(self, join: StoredEvent) -> JoinedRoom:
        """Return what a server that has just joined must know."""
        assert join.snapshot_id is not None
        state = list((await self._states.at_snapshot(join.snapshot_id)).values())
        chain = await self._graph.chain_of([*state, *join.event.auth_events])
        return JoinedRoom(join, state, sorted(chain))

    def encode(self, room: JoinedRoom) -> AsyncIterator[bytes]:
        """Return the parts of the JSON object."""
        head = orjson.dumps({"members_omitted": False, "origin": self._server_name})
        opening = b'%b,"event":%b,' % (head[:-1], room.join.event.canonical)
        return self._streamed.encode({"state": room.state, "auth_chain": room.auth_chain}, opening)
