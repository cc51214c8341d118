"""Several writers: every room has one owner, whichever process is called."""

import pytest

from hs.core.ids import EventID, RoomID
from hs.core.streams import EVENTS
from hs.repl.rpc import rpc_methods
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.storage.database import Database, Tx
from tests.support.rooms import ALICE, BOB, message, open_writers, txn_key


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
