"""Appending to rooms: what it answers, stores and publishes."""

import pytest
import trio
import trio.testing

from hs.core.errors import Forbidden, NotFound, TooLarge
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.core.versions import ROOM_VERSIONS
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Tx
from hs.storage.rooms import rooms
from tests.support.rooms import ALICE, BOB, CAROL, World, member, message


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_rooms_of_every_version_take_members_and_messages(world: World, version: str) -> None:
    room_id = await world.create_room(ALICE, version=version, join=[BOB])

    sent = await world.send(room_id, BOB, "hi")

    stored = await world.events.get_one(sent.event_id)
    state = await world.states.current(room_id)
    assert stored is not None
    assert stored.event.content["body"] == "hi"
    assert stored.stream_id == sent.stream_id
    assert (event_types.MEMBER, BOB) in state
    assert world.seen[-1][1].event_id == sent.event_id


async def test_events_follow_each_other_in_one_line(world: World) -> None:
    room_id = await world.create_room(ALICE)

    first = await world.send(room_id, ALICE)
    second = await world.send(room_id, ALICE)

    stored = await world.events.get([first.event_id, second.event_id])
    assert stored[second.event_id].event.prev_events == (first.event_id,)
    assert stored[second.event_id].event.depth == stored[first.event_id].event.depth + 1


async def test_who_is_not_in_the_room_cannot_send(world: World) -> None:
    room_id = await world.create_room(ALICE)

    with pytest.raises(Forbidden):
        await world.send(room_id, BOB)


async def test_unknown_rooms_are_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.send(RoomID("!nowhere:test.example"), ALICE)


async def test_a_draft_that_fails_leaves_nothing_of_its_call(world: World) -> None:
    room_id = await world.create_room(ALICE, join_rule="invite")
    before = await world.states.current(room_id)
    published = len(world.seen)

    with pytest.raises(Forbidden):
        await world.append(
            room_id,
            Draft("m.room.topic", ALICE, {"topic": "new"}, ""),
            member(BOB, "join"),
        )

    sent = await world.send(room_id, ALICE)
    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert await world.states.current(room_id) == before
    assert await world.states.at_snapshot(stored.snapshot_id or 0) == before
    assert len(world.seen) == published + 1


async def test_events_too_large_are_refused(world: World) -> None:
    room_id = await world.create_room(ALICE)

    with pytest.raises(TooLarge):
        await world.send(room_id, ALICE, "x" * 70_000)


async def test_equal_state_is_kept_when_asked_for(world: World) -> None:
    room_id = await world.create_room(ALICE)
    draft = Draft("m.room.topic", ALICE, {"topic": "same"}, "", keep_if_same=True)
    (first,) = await world.append(room_id, draft)

    (again,) = await world.append(room_id, draft)

    assert again.event_id == first.event_id
    assert again.existed


async def test_one_room_takes_many_senders_at_once(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    ids: list[EventID] = []

    async def send(number: int) -> None:
        sender = (ALICE, BOB, CAROL)[number % 3]
        ids.append((await world.send(room_id, sender, str(number))).event_id)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(send, number)

    stored = await world.events.get(ids)
    depths = sorted(one.event.depth for one in stored.values())
    assert len(set(ids)) == 60
    assert depths == list(range(depths[0], depths[0] + 60))


async def test_many_rooms_are_written_at_once(world: World) -> None:
    async def use_room(number: int) -> None:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, BOB, str(number))
        await world.set_state(room_id, ALICE, "m.room.name", {"name": str(number)})

    async with trio.open_nursery() as nursery:
        for number in range(25):
            nursery.start_soon(use_room, number)

    assert len([row for _, row in world.seen if row.type == "m.room.name"]) == 25
    assert [number for number, _ in world.seen] == sorted(number for number, _ in world.seen)


async def test_waiters_that_give_up_do_not_stop_the_commit(world: World) -> None:
    room_id = await world.create_room(ALICE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.send, room_id, ALICE, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await world.send(room_id, ALICE, "second")

    bodies = [row.pdu for _, row in world.seen[-2:]]
    assert b"first" in (bodies[0] or b"")


async def test_summaries_count_members_and_show_names(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB], invite=[CAROL])
    await world.set_state(room_id, ALICE, "m.room.name", {"name": "Tea"})

    await world.leave(room_id, BOB)

    async def read(tx: Tx) -> rooms.SummaryRecord | None:
        return await rooms.summary(tx, room_id)

    summary = await world.database.read(read)
    assert summary is not None
    assert (summary.name, summary.joined_members, summary.invited_members) == ("Tea", 1, 1)
    assert summary.join_rule == "public"


async def test_rooms_that_fell_out_of_memory_go_on(world: World) -> None:
    room_id = await world.create_room(ALICE, version="1", join=[BOB])
    world.rooms._max_bytes = 0
    for _ in range(3):
        await world.create_room(ALICE)
    assert room_id not in world.rooms

    sent = await world.append(room_id, message(BOB), message(ALICE))

    assert len(sent) == 2
