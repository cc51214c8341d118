"""Failed commits publish nothing, and rooms continue from what is in the database."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from hs.core.ids import RoomID
from hs.services.rooms.append import event_builder
from hs.services.rooms.append.committer import NotCommitted
from hs.services.rooms.append.drafts import AppendedEvent
from hs.services.rooms.append.event_builder import random_opaque
from hs.storage.database import Database, Tx
from tests.support.rooms import ALICE, World, open_world, txn_key


class ChosenIds:
    """Returns random IDs, or the next of `chosen`; a repeated ID breaks its commit."""

    def __init__(self) -> None:
        self.chosen: list[str] = []

    def __call__(self) -> str:
        return self.chosen.pop() if self.chosen else random_opaque()


@pytest.fixture
def ids(monkeypatch: pytest.MonkeyPatch) -> ChosenIds:
    ids = ChosenIds()
    monkeypatch.setattr(event_builder, "random_opaque", ids)
    return ids


async def _room_with_taken_id(world: World, ids: ChosenIds) -> tuple[RoomID, AppendedEvent]:
    """Create a room of version 1, with one event whose ID is `taken`."""
    room_id = await world.create_room(ALICE, version="1")
    ids.chosen = ["taken"]
    return room_id, await world.send(room_id, ALICE)


async def test_failed_commit_stores_and_publishes_nothing(world: World, ids: ChosenIds) -> None:
    room_id, last = await _room_with_taken_id(world, ids)
    published = len(world.seen)

    ids.chosen = ["taken"]
    with pytest.raises(NotCommitted):
        await world.set_state(room_id, ALICE, "m.room.name", {"name": "never"})

    assert len(world.seen) == published
    assert ("m.room.name", "") not in await world.states.current(room_id)
    sent = await world.send(room_id, ALICE)
    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert stored.event.prev_events == (last.event_id,)


async def test_failed_commit_does_not_affect_other_rooms(world: World, ids: ChosenIds) -> None:
    broken, _ = await _room_with_taken_id(world, ids)
    sound = await world.create_room(ALICE)
    results: list[bool] = []

    async def send(room_id: RoomID) -> None:
        try:
            await world.send(room_id, ALICE)
            results.append(room_id == sound)
        except NotCommitted:
            results.append(room_id == broken)

    ids.chosen = ["taken"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, broken)
        nursery.start_soon(send, sound)

    assert results == [True, True]


async def test_events_built_on_a_failed_batch_fail_too(
    database: Database, world: World, ids: ChosenIds
) -> None:
    room_id, last = await _room_with_taken_id(world, ids)
    failed: list[int] = []

    async def send(number: int) -> None:
        try:
            await world.send(room_id, ALICE, str(number))
        except NotCommitted:
            failed.append(number)

    ids.chosen = ["taken"]
    async with trio.open_nursery() as nursery, _blocked_writes(database):
        nursery.start_soon(send, 1)
        await _wait_until(lambda: _pending(world, room_id) == 1)
        await _wait_until(lambda: not world.committer._queue)
        nursery.start_soon(send, 2)
        await _wait_until(lambda: _pending(world, room_id) == 2)

    assert sorted(failed) == [1, 2]
    sent = await world.send(room_id, ALICE)
    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert stored.event.prev_events == (last.event_id,)


async def test_failed_request_can_be_repeated(world: World, ids: ChosenIds) -> None:
    room_id, _ = await _room_with_taken_id(world, ids)
    key = txn_key(ALICE, room_id, "t1")
    ids.chosen = ["taken"]
    with pytest.raises(NotCommitted):
        await world.send(room_id, ALICE, txn=key)

    first = await world.send(room_id, ALICE, txn=key)
    repeated = await world.send(room_id, ALICE, txn=key)

    assert not first.existed
    assert repeated.event_id == first.event_id


async def test_queued_events_are_stored_on_shutdown(database: Database) -> None:
    answers: list[AppendedEvent] = []

    async def send(world: World, room_id: RoomID) -> None:
        answers.append(await world.send(room_id, ALICE, "last words"))

    async with trio.open_nursery() as nursery:
        async with open_world(database) as world:
            room_id = await world.create_room(ALICE)
            nursery.start_soon(send, world, room_id)
            await _wait_until(lambda: bool(_pending(world, room_id)))

    async with open_world(database) as world:
        assert await world.events.get_one(answers[0].event_id) is not None


async def test_appending_after_shutdown_is_rejected(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)

    with pytest.raises(NotCommitted):
        await world.send(room_id, ALICE)


def _pending(world: World, room_id: RoomID) -> int:
    return len(world.rooms._rooms[room_id].pending)


@asynccontextmanager
async def _blocked_writes(database: Database) -> AsyncIterator[None]:
    """Block all writes to the database."""
    blocked, released = trio.Event(), False
    token = trio.lowlevel.current_trio_token()

    async def hold(tx: Tx) -> None:
        if tx.dialect.engine == "postgres":
            await tx.execute("LOCK TABLE events IN SHARE MODE")
        token.run_sync_soon(blocked.set)
        while not released:
            await tx.fetch("SELECT 1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, hold)
        await blocked.wait()
        try:
            yield
        finally:
            released = True


async def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()
