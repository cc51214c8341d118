"""Transaction IDs: the same request twice is one event."""

import attrs
import pytest
import trio

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.repl.ownership import Ownership, Topology
from hs.services.rooms.append import transaction_ids
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Appended, Draft
from hs.services.rooms.append.sharded_appender import ShardedAppender
from hs.services.rooms.retention.request_cleanup import RoomUpkeep
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, World, message, open_world, txn_key


async def test_a_repeated_request_gives_the_same_event(world: World) -> None:
    room_id = await world.create_room(ALICE)
    key = txn_key(ALICE, room_id, "t1")

    first = await world.send(room_id, ALICE, txn=key)
    again = await world.send(room_id, ALICE, txn=key)

    assert again.event_id == first.event_id
    assert (again.stream_id, again.existed, first.existed) == (first.stream_id, True, False)


async def test_equal_requests_at_once_give_one_event(world: World) -> None:
    room_id = await world.create_room(ALICE)
    answers: list[Appended] = []

    async def send() -> None:
        answers.append(await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1")))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)

    assert len({one.event_id for one in answers}) == 1
    assert [one.existed for one in answers].count(False) == 1


async def test_other_devices_and_users_have_their_own_transaction_ids(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])

    sent = [
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t", "ONE")),
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t", "TWO")),
        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "t", "ONE")),
    ]

    assert len({one.event_id for one in sent}) == 3


async def test_a_request_repeated_after_a_restart_gives_the_same_event(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        first = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1"))

    async with open_world(database) as world:
        again = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1"))

    assert (again.event_id, again.stream_id) == (first.event_id, first.stream_id)
    assert again.existed


async def test_a_request_that_was_refused_may_be_repeated(world: World) -> None:
    room_id = await world.create_room(ALICE)
    with pytest.raises(Forbidden):
        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "t1"))
    await world.join(room_id, BOB)

    sent = await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "t1"))

    assert not sent.existed


async def test_memory_of_requests_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_ids, "MAX_KEYS", 5)
    room_id = await world.create_room(ALICE)
    for number in range(12):
        await world.append(room_id, message(ALICE, "x", txn_key(ALICE, room_id, f"t{number}")))

    again = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t11"))
    oldest = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t0"))

    assert again.existed
    assert oldest.existed


async def test_old_requests_are_known_after_a_restart(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_ids, "MAX_KEYS", 5)
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        for number in range(12):
            world.clock.advance(1)
            await world.append(room_id, message(ALICE, "x", txn_key(ALICE, room_id, f"t{number}")))

    async with open_world(database) as world:
        for name, known in (("t0", True), ("t11", True), ("t12", False)):
            sent = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, name))
            assert sent.existed is known


async def test_requests_are_forgotten_after_a_day(database: Database) -> None:
    async with open_world(database) as world:
        upkeep = RoomUpkeep(database, world.clock)
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "old"))
        world.clock.advance(25 * 3600 * 1000)
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "new"))

        assert await upkeep.forget_old_requests() == 1

    async with open_world(database) as world:
        assert not (await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "old"))).existed
        assert (await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "new"))).existed


async def test_a_room_asked_for_again_after_its_maker_was_restarted_is_the_same(
    database: Database,
) -> None:
    asked: list[list[Draft]] = []
    made: list[Appended] = []
    shared = Topology("front", "main", {"events": ("maker",)})
    maker_of = attrs.evolve(shared, instance="maker")

    async with open_world(database, topology=maker_of) as maker:
        front = ShardedAppender(Ownership(shared), {"maker": Listening(maker.writer, asked)})
        made += await front.create("11", [Draft(event_types.CREATE, ALICE, {}, "")])
        made += await maker.writer.create("11", asked[0])
    async with open_world(database, topology=maker_of) as maker:
        made += await maker.writer.create("11", asked[0])

    assert len({one.room_id for one in made}) == 1
    assert [one.existed for one in made] == [False, True, True]


@attrs.frozen(eq=False)
class Listening:
    """The owner's side, and what it was asked for."""

    appender: RoomAppender
    asked: list[list[Draft]]

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[Appended]:
        return await self.appender.append(room_id, drafts)

    async def create(self, version: str, drafts: list[Draft]) -> list[Appended]:
        self.asked.append(drafts)
        return await self.appender.create(version, drafts)
