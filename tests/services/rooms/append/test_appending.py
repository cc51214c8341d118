"""Appending to rooms: what is returned, stored and published."""

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
async def test_members_and_messages_are_appended_in_every_room_version(
    world: World, version: str
) -> None:
    room_id = await world.create_room(ALICE, version=version, join=[BOB])

    sent = await world.send(room_id, BOB, "hi")

    stored = await world.events.get_one(sent.event_id)
    state = await world.states.current(room_id)
    assert stored is not None
    assert stored.event.content["body"] == "hi"
    assert stored.stream_id == sent.stream_id
    assert (event_types.MEMBER, BOB) in state
    assert world.seen[-1][1].event_id == sent.event_id


async def test_event_cites_the_previous_event(world: World) -> None:
    room_id = await world.create_room(ALICE)

    first = await world.send(room_id, ALICE)
    second = await world.send(room_id, ALICE)

    stored = await world.events.get([first.event_id, second.event_id])
    assert stored[second.event_id].event.prev_events == (first.event_id,)
    assert stored[second.event_id].event.depth == stored[first.event_id].event.depth + 1


async def test_user_outside_the_room_cannot_send(world: World) -> None:
    room_id = await world.create_room(ALICE)

    with pytest.raises(Forbidden):
        await world.send(room_id, BOB)


async def test_sending_to_an_unknown_room_raises_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.send(RoomID("!nowhere:test.example"), ALICE)


async def test_forbidden_draft_rejects_the_whole_call(world: World) -> None:
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


async def test_event_that_is_too_large_is_rejected(world: World) -> None:
    room_id = await world.create_room(ALICE)

    with pytest.raises(TooLarge):
        await world.send(room_id, ALICE, "x" * 70_000)


async def test_keep_if_same_returns_the_current_state_event(world: World) -> None:
    room_id = await world.create_room(ALICE)
    draft = Draft("m.room.topic", ALICE, {"topic": "same"}, "", keep_if_same=True)
    (first,) = await world.append(room_id, draft)

    (repeated,) = await world.append(room_id, draft)

    assert repeated.event_id == first.event_id
    assert repeated.existed


async def test_concurrent_events_of_a_room_form_one_chain(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    ids: list[EventID] = []

    async def send(number: int) -> None:
        sender = (ALICE, BOB, CAROL)[number % 3]
        ids.append((await world.send(room_id, sender, str(number))).event_id)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(send, number)

    stored = await world.events.get(ids)
    depths = sorted(each.event.depth for each in stored.values())
    assert len(set(ids)) == 60
    assert depths == list(range(depths[0], depths[0] + 60))


async def test_concurrent_rooms_are_all_stored(world: World) -> None:
    async def use_room(number: int) -> None:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, BOB, str(number))
        await world.set_state(room_id, ALICE, "m.room.name", {"name": str(number)})

    async with trio.open_nursery() as nursery:
        for number in range(25):
            nursery.start_soon(use_room, number)

    assert len([row for _, row in world.seen if row.type == "m.room.name"]) == 25
    assert [number for number, _ in world.seen] == sorted(number for number, _ in world.seen)


async def test_cancelled_waiter_does_not_stop_the_commit(world: World) -> None:
    room_id = await world.create_room(ALICE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.send, room_id, ALICE, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await world.send(room_id, ALICE, "second")

    bodies = [row.pdu for _, row in world.seen[-2:]]
    assert b"first" in (bodies[0] or b"")


async def test_summary_has_member_counts_and_name(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB], invite=[CAROL])
    await world.set_state(room_id, ALICE, "m.room.name", {"name": "Tea"})

    await world.leave(room_id, BOB)

    async def read(tx: Tx) -> rooms.RoomSummaryRecord | None:
        return await rooms.summary(tx, room_id)

    summary = await world.database.read(read)
    assert summary is not None
    assert (summary.name, summary.joined_members, summary.invited_members) == ("Tea", 1, 1)
    assert summary.join_rule == "public"


async def test_evicted_room_is_loaded_again(world: World) -> None:
    room_id = await world.create_room(ALICE, version="1", join=[BOB])
    world.rooms._max_bytes = 0
    for _ in range(3):
        await world.create_room(ALICE)
    assert room_id not in world.rooms

    sent = await world.append(room_id, message(BOB), message(ALICE))

    assert len(sent) == 2
