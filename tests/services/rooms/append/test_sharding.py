"""Several processes that write events: each room has one owner, whoever is asked."""

from hs.core.ids import EventID, RoomID
from hs.repl.rpc import rpc_methods
from hs.repl.streams import EVENTS
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Appended, Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, message, open_writers, txn_key


async def test_rooms_belong_to_the_writer_that_made_them(database: Database) -> None:
    async with open_writers(database) as (one, two):
        rooms = [await one.create_room(ALICE, version=version) for version in ("6", "11", "12")]
        rooms += [await two.create_room(ALICE, version=version) for version in ("6", "11", "12")]

        for room_id in rooms:
            await one.join(room_id, BOB)
            await two.send(room_id, BOB)

        owners = [one.ownership.owner(EVENTS, room_id) for room_id in rooms]
        assert owners == ["one"] * 3 + ["two"] * 3
        assert sorted(number for number, _ in one.seen) == sorted(number for number, _ in two.seen)
        for room_id in rooms:
            assert await one.states.current(room_id) == await two.states.current(room_id)


def test_drafts_cross_between_processes() -> None:
    method = rpc_methods(RoomAppender)["append"]
    room_id = RoomID("!room:test.example")
    drafts = [message(ALICE, "hello", txn_key(ALICE, room_id, "t1")), Draft("m.x", ALICE, {}, "k")]

    decoded = method.decode_arguments(method.encode_arguments((room_id, drafts), {}))

    assert decoded == [room_id, drafts]
    answer = [Appended(EventID("$event"), 7, room_id, existed=True)]
    assert method.decode_result(method.encode_result(answer)) == answer
