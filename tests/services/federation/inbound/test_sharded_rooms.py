"""Transactions that reach one of two processes, of which each owns some rooms."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hs.core.ids import RoomID, UserID, server_of
from hs.repl.slots.assignment import shard_of
from hs.services.federation_client.key_responses import KEYS_URI
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import (
    QUEUES,
    Inbound,
    joined_history,
    open_inbound,
)
from tests.support.composition import (
    SETTINGS,
    ComposedProcess,
    Neighbourhood,
    open_process,
    worker_settings,
)
from tests.support.federation import PeerNetwork, settings_of
from tests.support.peers import CORA, TEST_SERVER

HI = ("m.room.message", {"body": "hi"})
WRITERS = ("main", "second")


@asynccontextmanager
async def open_processes(
    database: Database, owner: str
) -> AsyncIterator[tuple[Inbound, dict[str, ComposedProcess]]]:
    """Start two processes, the first of which receives transactions of a room of the owner."""
    number = next(n for n in range(100) if WRITERS[shard_of(f"!r{n}:one.example", 2)] == owner)
    history = joined_history(room_id=RoomID(f"!r{number}:one.example"))
    neighbours, network = Neighbourhood(), PeerNetwork()
    main, second = (worker_settings(SETTINGS, name, events=WRITERS) for name in WRITERS)
    async with (
        open_process(
            database,
            settings_of(TEST_SERVER, second),
            neighbours=neighbours,
            peers=network.transport_of(TEST_SERVER),
        ) as other,
        open_inbound(
            database, history, network=network, neighbours=neighbours, settings=main
        ) as inbound,
    ):
        yield inbound, {"main": inbound.server.process, "second": other}


@pytest.mark.parametrize("owner", WRITERS)
async def test_events_are_stored_and_completed_by_the_owner_of_the_room(
    database: Database, owner: str
) -> None:
    async with open_processes(database, owner) as (inbound, processes):
        history = inbound.history
        inbound.serve_history()
        direct, hidden, last = (history.add(CORA, *HI) for _ in range(3))

        results = await inbound.send(direct, last)
        waiting = await inbound.waiting()
        async with processes[owner].duties(QUEUES):
            await inbound.wait_until(inbound.is_idle, 60)

        assert results == {direct.event_id: {}, last.event_id: {}}
        assert waiting == 1
        for event in (direct, hidden, last):
            assert await inbound.status(event) is EventStatus.ACCEPTED


@pytest.mark.parametrize("owner", WRITERS)
async def test_owner_of_a_room_does_not_ask_for_keys_that_were_asked_for_before(
    database: Database, owner: str
) -> None:
    async with open_processes(database, owner) as (inbound, _):
        stranger = UserID("@x:keyless.example")
        asked = []

        async def refuse(request: PeerRequest) -> PeerResponse:
            asked.append(request.uri)
            return PeerResponse(404, {"content-type": "application/json"}, b"{}")

        inbound.server.network.answers[server_of(stranger)] = refuse
        event = inbound.history.draft(stranger, *HI)

        results = await inbound.send(event)

        assert results[event.event_id]["error"]
        assert asked == [KEYS_URI]
