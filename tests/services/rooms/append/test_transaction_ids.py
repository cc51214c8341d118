"""Transaction IDs: a repeated request yields the same event."""

import attrs
import pytest
import trio

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.streams import EVENTS
from hs.services.rooms.append import transaction_ids
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.services.rooms.append.sharded_appender import ShardedAppender
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.rooms import ALICE, BOB, World, message, open_world, txn_key


async def test_repeated_request_returns_the_same_event(world: World) -> None:
    room_id = await world.create_room(ALICE)
    key = txn_key(ALICE, room_id, "t1")

    first = await world.send(room_id, ALICE, txn=key)
    again = await world.send(room_id, ALICE, txn=key)

    assert again.event_id == first.event_id
    assert (again.stream_id, again.existed, first.existed) == (first.stream_id, True, False)


async def test_concurrent_equal_requests_create_one_event(world: World) -> None:
    room_id = await world.create_room(ALICE)
    results: list[AppendedEvent] = []

    async def send() -> None:
        results.append(await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1")))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)

    assert len({result.event_id for result in results}) == 1
    assert [result.existed for result in results].count(False) == 1


async def test_transaction_ids_are_per_user_and_device(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])

    sent = [
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t", "ONE")),
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t", "TWO")),
        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "t", "ONE")),
    ]

    assert len({event.event_id for event in sent}) == 3


async def test_request_repeated_after_a_restart_returns_the_same_event(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        first = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1"))

    async with open_world(database) as world:
        again = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1"))

    assert (again.event_id, again.stream_id) == (first.event_id, first.stream_id)
    assert again.existed


async def test_rejected_request_can_be_repeated(world: World) -> None:
    room_id = await world.create_room(ALICE)
    with pytest.raises(Forbidden):
        await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "t1"))
    await world.join(room_id, BOB)

    sent = await world.send(room_id, BOB, txn=txn_key(BOB, room_id, "t1"))

    assert not sent.existed


async def test_requests_that_are_not_in_memory_are_looked_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_ids, "MAX_RECENT", 5)
    room_id = await world.create_room(ALICE)
    for number in range(12):
        await world.append(room_id, message(ALICE, "x", txn_key(ALICE, room_id, f"t{number}")))

    again = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t11"))
    oldest = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t0"))

    assert again.existed
    assert oldest.existed


async def test_old_requests_are_looked_up_after_a_restart(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_ids, "MAX_RECENT", 5)
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        for number in range(12):
            world.clock.advance(1)
            await world.append(room_id, message(ALICE, "x", txn_key(ALICE, room_id, f"t{number}")))

    async with open_world(database) as world:
        for name, known in (("t0", True), ("t11", True), ("t12", False)):
            sent = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, name))
            assert sent.existed is known


async def test_requests_are_deleted_after_a_day(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "old"))
        world.clock.advance(25 * 3600 * 1000)
        await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "new"))

        assert await world.process.services.core.rooms.cleanup.delete_old_transaction_ids() == 1

    async with open_world(database) as world:
        assert not (await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "old"))).existed
        assert (await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "new"))).existed


async def test_creation_repeated_after_a_restart_returns_the_same_room(
    database: Database,
) -> None:
    calls: list[list[Draft]] = []
    created: list[AppendedEvent] = []
    neighbours = Neighbourhood()
    front_settings, owner_settings = (
        worker_settings(SETTINGS, name, "front", events=("maker",)) for name in ("front", "maker")
    )

    async with (
        open_world(database, owner_settings, neighbours=neighbours) as owner,
        open_world(database, front_settings, neighbours=neighbours) as front,
    ):
        recording = RecordingAppender(owner.writer, calls)
        base = front.process.base
        services: dict[str, RoomAppender] = {"maker": recording}
        appender = ShardedAppender(base.ownership, services.__getitem__, base.owner_calls(EVENTS))
        created += await appender.create("11", [Draft(event_types.CREATE, ALICE, {}, "")])
        created += await owner.writer.create("11", calls[0])
    async with open_world(database, owner_settings) as owner:
        created += await owner.writer.create("11", calls[0])

    assert len({room.room_id for room in created}) == 1
    assert [room.existed for room in created] == [False, True, True]


@attrs.frozen(eq=False)
class RecordingAppender:
    """A RoomAppender that records the arguments of `create`."""

    appender: RoomAppender
    calls: list[list[Draft]]

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        return await self.appender.append(room_id, drafts)

    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        self.calls.append(drafts)
        return await self.appender.create(version, drafts)
