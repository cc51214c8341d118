"""A server that receives transactions of scripted peers, in a room that a `History` describes.

async with open_inbound(database) as inbound:
    event = inbound.history.add(CORA, "m.room.message", {"body": "hi"})
    results = await inbound.send(event)
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.services.federation_client.peer_transport import PeerRequest
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database, Tx
from hs.storage.federation import inbound_pdus
from tests.support.composition import Neighbourhood
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, open_server
from tests.support.peers import BERT, CORA, TEST_SERVER, History
from tests.support.rooms import ALICE

ONE, TWO, THREE = (ServerName(f"{name}.example") for name in ("one", "two", "three"))
PREFIX = "/_matrix/federation/v1"
QUEUES = "incomplete PDUs"
JOIN = {"membership": "join"}


def joined_history(
    version: str = "11",
    members: Sequence[UserID] = (BERT, CORA),
    room_id: RoomID | None = None,
) -> History:
    """Return a room of peers that Alice has joined last."""
    history = History(version)
    history.room_id = room_id or history.room_id
    history.begin()
    for user_id in members:
        history.add(user_id, "m.room.member", JOIN, user_id)
    history.first = history.add(ALICE, "m.room.member", JOIN, ALICE).event_id
    return history


@attrs.define(eq=False)
class Inbound:
    """The server, the room and its peers."""

    server: FederatedServer
    history: History
    peers: dict[ServerName, ScriptedPeer]
    sent: int = 0

    @property
    def room_id(self) -> RoomID:
        """The room."""
        assert self.history.room_id is not None
        return self.history.room_id

    async def import_room(self) -> None:
        """Have the server join the room."""
        receiver = self.server.process.services.core.rooms.receiver
        await receiver.seed_room(self.room_id, self.history.version, *self.history.seed())

    async def send(
        self, *events: Event | JsonObject, origin: ServerName = ONE, edus: Sequence[Any] = ()
    ) -> JsonObject:
        """Send a transaction; return the results of its PDUs."""
        pdus = [event.pdu if isinstance(event, Event) else event for event in events]
        return await self.send_raw({"pdus": pdus, "edus": list(edus)}, origin)

    async def send_raw(self, content: JsonObject, origin: ServerName = ONE) -> JsonObject:
        """Send a transaction with any content; return the results of its PDUs."""
        self.sent += 1
        body = orjson.dumps(
            {"origin": origin, "origin_server_ts": 1, **content}, option=orjson.OPT_SORT_KEYS
        )
        response = await self.peers[origin].client.request(
            self.server.name, "PUT", f"{PREFIX}/send/t{self.sent}", body
        )
        results: JsonObject = response["pdus"]
        return results

    async def status(self, event: Event) -> EventStatus | None:
        """Return the status of an event in the database; None if it is not stored."""
        self.server.world.events.forget(event.event_id)
        stored = await self.server.world.events.get_one(event.event_id)
        return None if stored is None else EventStatus(stored.status)

    async def waiting(self) -> int:
        """Return how many PDUs wait in the database."""
        queues = await self.server.world.database.read(inbound_pdus.list_queues)
        return sum(queue.length for queue in queues)

    async def work(self, *, timeout_s: float = 60) -> None:
        """Run the duty until no PDU waits."""
        async with self.server.process.duties(QUEUES):
            await self.wait_until(self.is_idle, timeout_s)

    async def is_idle(self) -> bool:
        """Return whether no PDU waits."""
        return await self.waiting() == 0

    async def wait_until(self, condition: Callable[[], Any], timeout_s: float = 20) -> None:
        """Wait until a condition is true."""
        with trio.fail_after(timeout_s):
            while not await condition():  # noqa: ASYNC110 the condition is in the database
                await trio.sleep(0.05)

    def uris(self, origin: ServerName = ONE) -> list[str]:
        """Return the URIs of the requests that a peer has received, without its keys."""
        return [
            request.uri
            for request in self.peers[origin].received
            if not request.uri.startswith("/_matrix/key")
        ]

    def serve_history(self, *origins: ServerName, between: int = 20) -> None:
        """Have peers answer honestly about the whole history."""
        for origin in origins or (ONE, TWO, THREE):
            self.peers[origin].responses.update(honest_answers(self.history, between))


def honest_answers(history: History, between: int = 20) -> dict[str, Any]:
    """Return what a server that has all of a room answers; `between` bounds missing events."""
    room = history.room_id

    def missing_events(request: PeerRequest) -> tuple[int, Any]:
        asked = orjson.loads(request.body or b"")
        stop = set(asked["earliest_events"]) | set(asked["latest_events"])
        found: list[EventID] = []
        queue = [
            each for latest in asked["latest_events"] for each in history.events[latest].prev_events
        ]
        while queue and len(found) < min(between, asked["limit"]):
            event_id = queue.pop(0)
            if event_id not in stop:
                stop.add(event_id)
                found.append(event_id)
                queue += history.events[event_id].prev_events
        return 200, {"events": [history.events[each].pdu for each in reversed(found)]}

    def state_before(request: PeerRequest) -> tuple[list[EventID], list[EventID]]:
        event_id = EventID(parse_qs(urlsplit(request.uri).query)["event_id"][0])
        state = list(history.before(history.events[event_id].prev_events).values())
        return state, auth_chain_of(history, state)

    def state_ids(request: PeerRequest) -> tuple[int, Any]:
        state, chain = state_before(request)
        return 200, {"pdu_ids": state, "auth_chain_ids": chain}

    def state(request: PeerRequest) -> tuple[int, Any]:
        ids, chain = state_before(request)
        return 200, {"pdus": _pdus(history, ids), "auth_chain": _pdus(history, chain)}

    def event(request: PeerRequest) -> tuple[int, Any]:
        found = history.events.get(EventID(unquote(request.uri.rsplit("/", 1)[1])))
        if found is None:
            return 404, {"errcode": "M_NOT_FOUND", "error": ""}
        return 200, {"origin": "x", "origin_server_ts": 1, "pdus": [found.pdu]}

    def event_auth(request: PeerRequest) -> tuple[int, Any]:
        found = history.events[EventID(unquote(request.uri.rsplit("/", 1)[1]))]
        chain = auth_chain_of(history, [found.event_id])
        return 200, {"auth_chain": _pdus(history, chain)}

    assert room is not None
    return {
        f"POST {PREFIX}/get_missing_events/": missing_events,
        f"GET {PREFIX}/state_ids/": state_ids,
        f"GET {PREFIX}/state/": state,
        f"GET {PREFIX}/event/": event,
        f"GET {PREFIX}/event_auth/": event_auth,
    }


def auth_chain_of(history: History, event_ids: Sequence[EventID]) -> list[EventID]:
    """Return the auth chain of events."""
    chain: dict[EventID, None] = {}
    waiting = list(event_ids)
    while waiting:
        for cited in history.events[waiting.pop()].auth_events:
            if cited not in chain:
                chain[cited] = None
                waiting.append(cited)
    return list(chain)


def _pdus(history: History, event_ids: Sequence[EventID]) -> list[Any]:
    return [history.events[each].pdu for each in event_ids]


async def count_rows(tx: Tx, table: str) -> int:
    """Return the number of rows of a table."""
    count: int = await tx.fetchval(f"SELECT count(*) FROM {table}")
    return count


@asynccontextmanager
async def open_inbound(
    database: Database,
    history: History | None = None,
    *,
    network: PeerNetwork | None = None,
    neighbours: Neighbourhood | None = None,
    is_new: bool = True,
    **options: Any,
) -> AsyncIterator[Inbound]:
    """Start the server and its peers; if `is_new`, the server joins the room.

    Opening another on the same database afterwards, not new, is a restart.
    """
    network = network or PeerNetwork()
    peers = {name: ScriptedPeer(name, network) for name in (ONE, TWO, THREE)}
    async with open_server(
        TEST_SERVER, network, database, neighbours=neighbours, **options
    ) as server:
        inbound = Inbound(server, history or joined_history(), peers)
        if is_new:
            await inbound.import_room()
        yield inbound
