"""Events that arrive after the join that this server has sent, and before the room."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
import trio
import trio.testing

from hs.core.errors import RemoteFault
from hs.core.ids import EventID, RoomID
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.services.rooms.receive.expected_rooms import EXPECTED_S
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.federation import inbound_pdus
from tests.services.federation.inbound.inbound_scene import QUEUES
from tests.services.federation.joining.rooms_between import ANN, BEN, FAR, NEAR, join
from tests.support.federation import FederatedServer, open_servers


async def message(server: FederatedServer, room_id: RoomID, body: str) -> tuple[EventID, bytes]:
    """Have Ann send a message; return its ID and a transaction with it."""
    sent = await server.world.send(room_id, ANN, body)
    stored = await server.world.events.get_one(sent.event_id)
    assert stored is not None
    content = {"origin": FAR, "origin_server_ts": 1, "pdus": [stored.event.pdu]}
    return sent.event_id, orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


@asynccontextmanager
async def welcoming(
    near: FederatedServer, far: FederatedServer, room_id: RoomID, *, answers: bool = True
) -> AsyncIterator[list[EventID]]:
    """Have Ann greet whoever joins before the joining server gets the room.

    Yield the IDs of the greetings. Without `answers`, the room never arrives.
    """
    answer, greetings = far.network.answers[FAR], list[EventID]()

    async def greet(request: PeerRequest) -> PeerResponse:
        response = await answer(request)
        if "/send_join/" in request.uri:
            event_id, body = await message(far, room_id, "Welcome!")
            uri = f"/_matrix/federation/v1/send/{len(greetings)}"
            results = await far.client.request(NEAR, "PUT", uri, body)
            assert results == {"pdus": {event_id: {}}}
            greetings.append(event_id)
            return response if answers else PeerResponse(502, {}, b"")
        return response

    far.network.answers[FAR] = greet
    yield greetings


async def status_at(server: FederatedServer, event_id: EventID) -> EventStatus | None:
    """Return the status of an event in the database; None if it is not stored."""
    server.world.events.forget(event_id)
    stored = await server.world.events.get_one(event_id)
    return None if stored is None else EventStatus(stored.status)


async def waiting_at(server: FederatedServer) -> int:
    """Return how many PDUs wait in the database."""
    queues = await server.world.database.read(inbound_pdus.list_queues)
    return sum(queue.length for queue in queues)


async def until_none_waits(server: FederatedServer, timeout_s: float = 30) -> None:
    """Wait until no PDU waits."""
    with trio.fail_after(timeout_s):
        while await waiting_at(server):  # noqa: ASYNC110 the rows are in the database
            await trio.sleep(0.05)


async def test_event_between_the_join_and_the_room_is_received() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        async with near.process.duties(QUEUES), welcoming(near, far, room_id) as greetings:
            await join(near, BEN, room_id, FAR)
            await until_none_waits(near)

        assert await status_at(near, greetings[0]) is EventStatus.ACCEPTED


async def test_event_of_a_room_that_never_arrives_is_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        async with welcoming(near, far, room_id, answers=False) as greetings:
            with pytest.raises(RemoteFault):
                await join(near, BEN, room_id, FAR)
        assert await waiting_at(near) == len(greetings) == 1

        async with near.process.duties(QUEUES):
            await until_none_waits(near, EXPECTED_S + 60)

        assert await status_at(near, greetings[0]) is None


async def test_server_that_the_room_excludes_adds_nothing_before_it_arrives() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await far.world.set_state(
            room_id, ANN, "m.room.server_acl", {"allow": ["*"], "deny": ["far.example"]}
        )
        async with near.process.duties(QUEUES), welcoming(near, far, room_id) as greetings:
            await join(near, BEN, room_id, FAR)
            await until_none_waits(near)

        assert await status_at(near, greetings[0]) is None
