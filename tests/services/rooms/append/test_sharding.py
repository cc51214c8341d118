"""Several writers: every room has one owner, whichever process is called."""

from hs.core.ids import EventID, RoomID
from hs.core.streams import EVENTS
from hs.repl.rpc import rpc_methods
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, message, open_writers, txn_key


async def test_room_belongs_to_the_writer_that_created_it(database: Database) -> None:
    async with open_writers(database) as (first, second):
        rooms = [await first.create_room(ALICE, version=version) for version in ("6", "11", "12")]
        rooms += [await second.create_room(ALICE, version=version) for version in ("6", "11", "12")]

        for room_id in rooms:
            await first.join(room_id, BOB)
            await second.send(room_id, BOB)

        owners = [first.process.base.ownership.owner(EVENTS, room_id) for room_id in rooms]
        assert owners == ["one"] * 3 + ["two"] * 3
        assert sorted(number for number, _ in first.seen) == sorted(
            number for number, _ in second.seen
        )
        for room_id in rooms:
            assert await first.states.current(room_id) == await second.states.current(room_id)


def test_drafts_and_results_are_encoded_for_rpc() -> None:
    method = rpc_methods(RoomAppender)["append"]
    room_id = RoomID("!room:test.example")
    drafts = [message(ALICE, "hello", txn_key(ALICE, room_id, "t1")), Draft("m.x", ALICE, {}, "k")]

    decoded = method.decode_arguments(method.encode_arguments((room_id, drafts), {}))

    assert decoded == [room_id, drafts]
    result = [AppendedEvent(EventID("$event"), 7, room_id, existed=True)]
    assert method.decode_result(method.encode_result(result)) == result
