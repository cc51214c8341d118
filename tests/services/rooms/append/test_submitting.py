"""Putting events into a room otherwise than by drafts: forks, resolved state, soft failures."""

from typing import Any

from hs.core.ids import EventID
from hs.services.rooms.append.hot_room import HotRoom, RoomHead, extremity
from hs.services.rooms.append.pending_events import Change, Placed
from hs.services.rooms.store.stored_event import Status
from hs.storage.database import Row, Tx
from tests.support.rooms import ALICE, BOB, World, message


def _next(world: World, room: HotRoom, head: RoomHead) -> Placed:
    placed, _ = world.writer._builder.place(room, head, message(ALICE))
    return placed


async def _rows(world: World, query: str, *args: Any) -> list[tuple[Any, ...]]:
    async def read(tx: Tx) -> list[Row]:
        return list(await tx.fetch(query, *args))

    return [tuple(row) for row in await world.database.read(read)]


async def test_resolved_state_replaces_the_current(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.set_state(room_id, ALICE, "m.room.name", {"name": "lost"})
    async with world.rooms.hold(room_id) as room:
        placed = _next(world, room, room.head)
        lost = {("m.room.name", ""): None, ("m.room.member", BOB): None}
        head = room.head.with_state(lost, room.create)
        head = head.with_extremities((extremity(placed.event),))
        placed.plain = False
        placed.changes = (
            Change("m.room.name", "", None, None),
            Change("m.room.member", BOB, None, None, "join"),
        )
        batch = world.rooms.submit(room, [placed], head)
    await batch.wait()

    current = await world.states.current(room_id)
    assert current == head.snapshot.map
    assert not set(lost) & set(current)
    assert await _rows(
        world, "SELECT membership FROM local_memberships WHERE user_id = $1", BOB
    ) == [("leave",)]
    assert await _rows(world, "SELECT count(*) FROM current_state WHERE room_id = $1", room_id) == [
        (len(current),)
    ]
    assert await _rows(world, "SELECT name, joined_members FROM room_summaries") == [(None, 1)]
    await world.send(room_id, ALICE)


async def test_forks_and_soft_failed_events_are_stored_beside_the_end(world: World) -> None:
    room_id = await world.create_room(ALICE)
    last = await world.send(room_id, ALICE)
    before = await world.states.current(room_id)
    async with world.rooms.hold(room_id) as room:
        placed = _next(world, room, room.head)
        placed.status = Status.SOFT_FAILED
        placed.missing = (EventID("$unknown"),)
        fork = await world.states.snapshot(room.head.snapshot.id or 0)
        placed.before = fork.after({("m.room.name", ""): EventID(placed.event.auth_events[0])})
        batch = world.rooms.submit(room, [placed], room.head)
    await batch.wait()

    stored = await world.events.get_one(placed.event.event_id)
    world.clock.advance(1)
    sent = await world.send(room_id, ALICE)
    following = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert stored.status == Status.SOFT_FAILED
    assert ("m.room.name", "") in await world.states.at_snapshot(stored.snapshot_id or 0)
    assert await world.states.current(room_id) == before
    assert following is not None
    assert following.event.prev_events == (last.event_id,)
    assert await _rows(world, "SELECT event_id FROM backward_extremities") == [("$unknown",)]


async def test_all_ends_are_joined_by_the_next_event(world: World) -> None:
    room_id = await world.create_room(ALICE)
    async with world.rooms.hold(room_id) as room:
        forks = [_next(world, room, room.head) for _ in range(2)]
        world.clock.advance(5)
        forks.append(_next(world, room, room.head))
        head = room.head.with_extremities(tuple(extremity(one.event) for one in forks[1:]))
        batch = world.rooms.submit(room, forks[1:], head)
    await batch.wait()

    sent = await world.send(room_id, ALICE)

    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert set(stored.event.prev_events) == {one.event.event_id for one in forks[1:]}
