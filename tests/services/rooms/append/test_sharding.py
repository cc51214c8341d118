"""Several writers: every room has one owner, whichever process is called."""

import attrs
import pytest

from hs.core.ids import EventID, RoomID
from hs.core.streams import EVENTS
from hs.repl.rpc import rpc_methods
from hs.repl.slots.assignment import slot_of
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.settings.sections.listeners import Listener, Resource
from hs.storage.database import Database, Tx
from tests.support.composition import SETTINGS, Neighbourhood, open_process, worker_settings
from tests.support.rooms import ALICE, BOB, message, open_world, open_writers, txn_key

REPLICATION = Listener(port=9093, resources=(Resource(names=("replication",)),))


@pytest.mark.parametrize("version", ["6", "11", "12"])
async def test_rooms_of_one_creator_are_spread_over_all_writers(
    database: Database, version: str
) -> None:
    async with open_writers(database) as (first, second):
        rooms = [await first.create_room(ALICE, version=version) for _ in range(16)]

        for room_id in rooms:
            await first.join(room_id, BOB)
            await second.send(room_id, BOB)

        owners = [first.process.base.ownership.owner(EVENTS, room_id) for room_id in rooms]
        assert set(owners) == {"one", "two"}
        assert owners == [await first.process.base.database.read(_writer_of, r) for r in rooms]
        assert sorted(number for number, _ in first.seen) == sorted(
            number for number, _ in second.seen
        )
        for room_id in rooms:
            assert await first.states.current(room_id) == await second.states.current(room_id)


async def test_writer_that_nobody_asks_gets_no_messages_of_others_and_can_take_their_rooms(
    database: Database,
) -> None:
    neighbours = Neighbourhood()
    settings = [worker_settings(SETTINGS, name, events=("one", "two")) for name in ("one", "two")]
    unasked = attrs.evolve(settings[1], listeners=(REPLICATION,))
    async with (
        open_world(database, settings[0], neighbours=neighbours) as first,
        open_process(database, unasked, neighbours=neighbours) as second,
    ):
        slots, taker = first.process.base.slots, second.base.slots
        assert slots is not None
        assert taker is not None
        room_id = await first.create_room(ALICE)
        while first.process.base.ownership.owner(EVENTS, room_id) != "one":
            room_id = await first.create_room(ALICE)
        await second.services.core.rooms.memberships.joined(room_id)
        await first.join(room_id, BOB)
        sent = [await first.send(room_id, BOB, text) for text in ("1", "2", "3")]

        assert not second.base.feed.needs_plain(EVENTS)
        events = second.services.core.rooms.events
        assert [event.event_id for event in sent if events.get_nowait(event.event_id)] == []
        assert second.base.feed.position(EVENTS) == first.feed.position(EVENTS)
        await slots._give("events", {"two": [slot_of(room_id)]})
        await taker._accept()
        assert second.base.ownership.is_mine(EVENTS, room_id)
        last = await first.send(room_id, BOB, "4")

        stored = await events.get([last.event_id, sent[-1].event_id])
        assert stored[last.event_id].writer == "two"
        assert stored[last.event_id].event.prev_events == (sent[-1].event_id,)
        assert BOB in await second.services.core.rooms.memberships.joined(room_id)


async def _writer_of(tx: Tx, room_id: RoomID) -> str:
    """Return the writer of all events of a room; fails if there are several."""
    (row,) = await tx.fetch("SELECT DISTINCT writer FROM events WHERE room_id = $1", room_id)
    return str(row[0])


def test_drafts_and_results_are_encoded_for_rpc() -> None:
    method = rpc_methods(RoomAppender)["append"]
    room_id = RoomID("!room:test.example")
    drafts = [message(ALICE, "hello", txn_key(ALICE, room_id, "t1")), Draft("m.x", ALICE, {}, "k")]

    decoded = method.decode_arguments(method.encode_arguments((room_id, drafts), {}))

    assert decoded == [room_id, drafts]
    result = [AppendedEvent(EventID("$event"), 7, room_id, existed=True)]
    assert method.decode_result(method.encode_result(result)) == result
