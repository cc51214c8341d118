"""Submitting events that are not built from drafts: forks, resolved state, soft failures."""

from typing import Any

from hs.core.ids import EventID
from hs.services.rooms.append.hot_room import HotRoom, RoomHead, extremity
from hs.services.rooms.append.pending_events import PendingEvent, StateEntryChange
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Row, Tx
from tests.support.rooms import ALICE, BOB, World, message


def _next_event(world: World, room: HotRoom, head: RoomHead) -> PendingEvent:
    pending, _ = world.writer._builder.build_event(room, head, message(ALICE))
    return pending


async def _rows(world: World, query: str, *args: Any) -> list[tuple[Any, ...]]:
    async def read(tx: Tx) -> list[Row]:
        return list(await tx.fetch(query, *args))

    return [tuple(row) for row in await world.database.read(read)]


async def test_resolved_state_replaces_the_current_state(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.set_state(room_id, ALICE, "m.room.name", {"name": "lost"})
    async with world.rooms.hold(room_id) as room:
        pending = _next_event(world, room, room.head)
        removed = {("m.room.name", ""): None, ("m.room.member", BOB): None}
        head = room.head.with_state(removed, room.create)
        head = head.with_extremities((extremity(pending.event),))
        pending.only_own_entry = False
        pending.changes = (
            StateEntryChange("m.room.name", "", None, None),
            StateEntryChange("m.room.member", BOB, None, None, "join"),
        )
        batch = world.rooms.submit(room, [pending], head)
    await batch.wait()

    current = await world.states.current(room_id)
    assert current == head.snapshot.map
    assert not set(removed) & set(current)
    assert await _rows(
        world, "SELECT membership FROM local_memberships WHERE user_id = $1", BOB
    ) == [("leave",)]
    assert await _rows(world, "SELECT count(*) FROM current_state WHERE room_id = $1", room_id) == [
        (len(current),)
    ]
    assert await _rows(world, "SELECT name, joined_members FROM room_summaries") == [(None, 1)]
    await world.send(room_id, ALICE)


async def test_soft_failed_event_does_not_become_an_extremity(world: World) -> None:
    room_id = await world.create_room(ALICE)
    last = await world.send(room_id, ALICE)
    before = await world.states.current(room_id)
    async with world.rooms.hold(room_id) as room:
        pending = _next_event(world, room, room.head)
        pending.status = EventStatus.SOFT_FAILED
        pending.missing_prev_events = (EventID("$unknown"),)
        fork = await world.states.snapshot(room.head.snapshot.id or 0)
        pending.state_before = fork.after(
            {("m.room.name", ""): EventID(pending.event.auth_events[0])}
        )
        batch = world.rooms.submit(room, [pending], room.head)
    await batch.wait()

    stored = await world.events.get_one(pending.event.event_id)
    world.clock.advance(1)
    sent = await world.send(room_id, ALICE)
    following = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert stored.status == EventStatus.SOFT_FAILED
    assert ("m.room.name", "") in await world.states.at_snapshot(stored.snapshot_id or 0)
    assert await world.states.current(room_id) == before
    assert following is not None
    assert following.event.prev_events == (last.event_id,)
    assert await _rows(world, "SELECT event_id FROM backward_extremities") == [("$unknown",)]


async def test_next_event_cites_all_extremities(world: World) -> None:
    room_id = await world.create_room(ALICE)
    async with world.rooms.hold(room_id) as room:
        forks = [_next_event(world, room, room.head) for _ in range(2)]
        world.clock.advance(5)
        forks.append(_next_event(world, room, room.head))
        head = room.head.with_extremities(tuple(extremity(fork.event) for fork in forks[1:]))
        batch = world.rooms.submit(room, forks[1:], head)
    await batch.wait()

    sent = await world.send(room_id, ALICE)

    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert set(stored.event.prev_events) == {fork.event.event_id for fork in forks[1:]}
