"""Commits that fail: nothing is published, and the rooms go on from what is on disk."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from hs.core.ids import RoomID
from hs.services.rooms.append.committer import NotCommitted
from hs.services.rooms.append.drafts import Appended
from hs.services.rooms.append.event_builder import random_opaque
from hs.storage.database import Database, Tx
from tests.support.rooms import ALICE, World, open_world, txn_key


class Ids:
    """Gives random IDs, or a chosen one when told to; an ID given twice breaks its commit."""

    def __init__(self) -> None:
        self.chosen: list[str] = []

    def __call__(self) -> str:
        return self.chosen.pop() if self.chosen else random_opaque()


async def _room_with_taken_id(world: World, ids: Ids) -> tuple[RoomID, Appended]:
    """Make a room of version 1, whose event IDs are chosen, with one event called `taken`."""
    room_id = await world.create_room(ALICE, version="1")
    ids.chosen = ["taken"]
    return room_id, await world.send(room_id, ALICE)


async def test_a_commit_that_breaks_a_constraint_leaves_nothing(database: Database) -> None:
    ids = Ids()
    async with open_world(database, opaque_id=ids) as world:
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


async def test_other_rooms_of_the_group_are_written(database: Database) -> None:
    ids = Ids()
    async with open_world(database, opaque_id=ids) as world:
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


async def test_what_was_built_on_top_falls_too(database: Database) -> None:
    ids = Ids()
    async with open_world(database, opaque_id=ids) as world:
        room_id, last = await _room_with_taken_id(world, ids)
        failed: list[int] = []

        async def send(number: int) -> None:
            try:
                await world.send(room_id, ALICE, str(number))
            except NotCommitted:
                failed.append(number)

        ids.chosen = ["taken"]
        async with trio.open_nursery() as nursery, _holding_writes(database):
            nursery.start_soon(send, 1)
            await _until(lambda: _pending(world, room_id) == 1)
            await _until(lambda: not world.committer._queue)
            nursery.start_soon(send, 2)
            await _until(lambda: _pending(world, room_id) == 2)

        assert sorted(failed) == [1, 2]
        sent = await world.send(room_id, ALICE)
        stored = await world.events.get_one(sent.event_id)
        assert stored is not None
        assert stored.event.prev_events == (last.event_id,)


async def test_a_failed_request_may_be_repeated(database: Database) -> None:
    ids = Ids()
    async with open_world(database, opaque_id=ids) as world:
        room_id, _ = await _room_with_taken_id(world, ids)
        key = txn_key(ALICE, room_id, "t1")
        ids.chosen = ["taken"]
        with pytest.raises(NotCommitted):
            await world.send(room_id, ALICE, txn=key)

        first = await world.send(room_id, ALICE, txn=key)
        again = await world.send(room_id, ALICE, txn=key)

        assert not first.existed
        assert again.event_id == first.event_id


async def test_what_waits_is_written_when_the_server_stops(database: Database) -> None:
    answers: list[Appended] = []

    async def send(world: World, room_id: RoomID) -> None:
        answers.append(await world.send(room_id, ALICE, "last words"))

    async with trio.open_nursery() as nursery:
        async with open_world(database) as world:
            room_id = await world.create_room(ALICE)
            nursery.start_soon(send, world, room_id)
            await _until(lambda: bool(_pending(world, room_id)))

    async with open_world(database) as world:
        assert await world.events.get_one(answers[0].event_id) is not None


async def test_after_stopping_nothing_is_taken(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)

    with pytest.raises(NotCommitted):
        await world.send(room_id, ALICE)


def _pending(world: World, room_id: RoomID) -> int:
    return len(world.rooms._rooms[room_id].pending)


@asynccontextmanager
async def _holding_writes(database: Database) -> AsyncIterator[None]:
    """Let no event be written meanwhile."""
    holding, is_over = trio.Event(), False
    token = trio.lowlevel.current_trio_token()

    async def hold(tx: Tx) -> None:
        if tx.dialect.engine == "postgres":
            await tx.execute("LOCK TABLE events IN SHARE MODE")
        token.run_sync_soon(holding.set)
        while not is_over:
            await tx.fetch("SELECT 1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, hold)
        await holding.wait()
        try:
            yield
        finally:
            is_over = True


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await trio.lowlevel.checkpoint()
