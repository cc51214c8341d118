"""Which events of a room's history users see."""

import pytest

from hs.core.errors import Forbidden
from hs.core.ids import RoomID
from hs.storage.database import Database
from tests.support.reading import ReadingScene, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world


async def create_history(world: World, visibility: str) -> RoomID:
    """Send messages before Bob is invited, after that, after he joins, and after he leaves."""
    room_id = await world.create_room(ALICE)
    await world.set_state(
        room_id, ALICE, "m.room.history_visibility", {"history_visibility": visibility}
    )
    await world.send(room_id, ALICE, "before")
    await world.set_membership(room_id, ALICE, BOB, "invite")
    await world.send(room_id, ALICE, "invited")
    await world.join(room_id, BOB)
    await world.send(room_id, ALICE, "joined")
    await world.leave(room_id, BOB)
    await world.send(room_id, ALICE, "after")
    return room_id


@pytest.mark.parametrize(
    ("visibility", "seen"),
    [
        ("world_readable", ["before", "invited", "joined", "after"]),
        ("shared", ["before", "invited", "joined"]),
        ("invited", ["invited", "joined"]),
        ("joined", ["joined"]),
    ],
)
async def test_user_who_left_sees_what_history_visibility_allows(
    database: Database, visibility: str, seen: list[str]
) -> None:
    async def check(reading: ReadingScene) -> None:
        assert await reading.bodies(BOB, room_id) == seen
        assert await reading.bodies(ALICE, room_id) == ["before", "invited", "joined", "after"]
        stranger = await reading.bodies(CAROL, room_id)
        assert stranger == (seen if visibility == "world_readable" else [])

    async with open_world(database) as world:
        room_id = await create_history(world, visibility)
        rows = world.seen
        await check(readers_of(world))
    async with open_world(database) as world:
        world.seen += rows
        await check(readers_of(world))


async def test_visibility_is_the_same_after_a_restart(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await create_history(world, "invited")
        rows = list(world.seen)
    async with open_world(database) as world:
        world.seen.extend(rows)

        assert await readers_of(world).bodies(BOB, room_id) == ["invited", "joined"]


async def memberships_seen(reading: ReadingScene, room_id: RoomID) -> list[str]:
    ids = [row.event_id for _, row in reading.world.seen if row.room_id == room_id]
    events = await reading.see(BOB, *ids)  # type: ignore[arg-type]  # rows hold plain strings
    return [
        event["unsigned"]["membership"]
        for event in events
        if event["type"] == "m.room.message" or event.get("state_key") == BOB
    ]


async def test_events_have_the_membership_at_the_event(world: World) -> None:
    reading = readers_of(world)
    room_id = await create_history(world, "shared")
    await world.join(room_id, BOB)

    assert await memberships_seen(reading, room_id) == [
        *("leave", "invite", "invite", "join", "join", "leave", "leave", "join"),
    ]


async def test_user_who_never_joined_sees_nothing_of_a_shared_room(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE)
    await world.send(room_id, ALICE, "before")
    await world.set_membership(room_id, ALICE, BOB, "invite")
    await world.leave(room_id, BOB)

    assert await reading.bodies(BOB, room_id) == []
    with pytest.raises(Forbidden):
        await reading.visibility.check_may_read(BOB, room_id)


async def test_former_members_may_read_and_others_may_not(world: World) -> None:
    reading = readers_of(world)
    room_id = await create_history(world, "shared")

    standing = await reading.visibility.check_may_read(BOB, room_id)

    assert standing.membership == "leave"
    with pytest.raises(Forbidden):
        await reading.visibility.check_may_read(CAROL, room_id)


async def test_everybody_may_read_world_readable_rooms(world: World) -> None:
    reading = readers_of(world)
    room_id = await create_history(world, "shared")
    with pytest.raises(Forbidden):
        await reading.visibility.check_may_read(CAROL, room_id)
    await world.set_state(
        room_id, ALICE, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    await world.send(room_id, ALICE, "open")

    await reading.visibility.check_may_read(CAROL, room_id)

    assert await reading.bodies(CAROL, room_id) == ["open"]


async def test_messages_of_ignored_users_are_hidden_but_not_their_state(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, join=[BOB])
    sent = await world.send(room_id, BOB, "rubbish")
    joined = next(row.event_id for _, row in world.seen if row.state_key == BOB)
    await reading.ignore(ALICE, BOB)

    events = await reading.see(ALICE, sent.event_id, joined)  # type: ignore[arg-type]  # a row's

    assert [event["event_id"] for event in events] == [joined]


async def test_messages_of_erased_users_are_redacted_for_users_who_were_not_joined(
    world: World,
) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE)
    sent = await world.send(room_id, ALICE, "early")
    await world.join(room_id, BOB)
    account = {"username": "alice", "password": "p", "auth": {"type": "m.login.dummy"}}
    registered = await world.process.client().post("/_matrix/client/v3/register", account)
    assert registered.json["user_id"] == ALICE
    await reading.services.core.accounts.lifecycle.deactivate(ALICE, erase=True)

    stored = list((await world.events.get([sent.event_id])).values())
    (seen,) = await reading.visibility.filter_visible(BOB, stored)

    assert seen.pruned
