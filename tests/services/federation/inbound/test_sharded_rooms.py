"""Transactions that reach one of two processes, of which each owns some rooms."""

import pytest

from hs.core.ids import RoomID
from hs.repl.ownership import shard_of
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import QUEUES, joined_history, open_inbound
from tests.support.composition import SETTINGS, Neighbourhood, open_process, worker_settings
from tests.support.federation import PeerNetwork, settings_of
from tests.support.peers import CORA, TEST_SERVER

HI = ("m.room.message", {"body": "hi"})
WRITERS = ("main", "second")


@pytest.mark.parametrize("owner", WRITERS)
async def test_events_are_stored_and_completed_by_the_owner_of_the_room(
    database: Database, owner: str
) -> None:
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
        inbound.serve_history()
        direct, hidden, last = (history.add(CORA, *HI) for _ in range(3))

        results = await inbound.send(direct, last)
        waiting = await inbound.waiting()
        processes = {"main": inbound.server.process, "second": other}
        async with processes[owner].duties(QUEUES):
            await inbound.wait_until(inbound.is_idle, 60)

        assert results == {direct.event_id: {}, last.event_id: {}}
        assert waiting == 1
        for event in (direct, hidden, last):
            assert await inbound.status(event) is EventStatus.ACCEPTED
