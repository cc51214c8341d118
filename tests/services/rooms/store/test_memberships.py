"""Memberships, kept up to date by the feed and read from the database."""

import pytest

from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS
from hs.repl.feed import Feed
from hs.services.rooms.store import memberships
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.rooms import ALICE, BOB, CAROL, ZOE, World, open_world


async def test_rooms_of_a_user_follow_the_feed(world: World) -> None:
    room_id = await world.create_room(ALICE, invite=[BOB])

    before = await world.memberships.rooms_of(BOB)
    await world.join(room_id, BOB)
    after = world.memberships.rooms_of_nowait(BOB)

    assert before[room_id].membership == "invite"
    assert before[room_id].sender == ALICE
    assert after is not None
    assert after[room_id].membership == "join"


async def test_cached_memberships_equal_those_in_the_database(database: Database) -> None:
    async with open_world(database) as follower:
        cached = follower.memberships
        await cached.rooms_of(BOB)
        room_id = await follower.create_room(ALICE, join=[BOB, ZOE], invite=[CAROL])
        await cached.present(room_id)
        await follower.leave(room_id, ALICE)
        await follower.leave(room_id, BOB)
        await follower.join(room_id, BOB)
    async with open_world(database) as newcomer:
        fresh = newcomer.memberships
        for user_id in (ALICE, BOB, CAROL):
            assert await cached.rooms_of(user_id) == await fresh.rooms_of(user_id)
        assert list(await cached.joined(room_id)) == list(await fresh.joined(room_id)) == [ZOE, BOB]
        assert (await cached.present(room_id)).local == {BOB}
        assert (await cached.present(room_id)).invited_count == 1
        assert await fresh.heroes(room_id, BOB) == [ZOE, CAROL]


async def test_heroes_of_an_empty_room_are_former_members(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.leave(room_id, BOB)

    assert await world.memberships.heroes(room_id, ALICE) == [BOB]


async def test_membership_of_remote_users_is_known(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[ZOE])

    assert await world.memberships.membership(room_id, ZOE) == "join"
    assert await world.memberships.membership(room_id, CAROL) is None
    assert await world.memberships.share_room(ALICE, ZOE)
    assert not await world.memberships.share_room(CAROL, ZOE)


async def test_recent_events_after_a_position_are_returned(world: World) -> None:
    tails = world.process.services.core.rooms.tails
    start = world.feed.position(EVENTS)
    room_id = await world.create_room(ALICE)
    position = world.feed.position(EVENTS)
    first = await world.send(room_id, ALICE, "one")
    second = await world.send(room_id, ALICE, "two")

    news = tails.since(room_id, position)
    since_start = tails.since(room_id, start)

    assert news is not None
    assert [event.event_id for event in news] == [first.event_id, second.event_id]
    assert since_start is not None
    assert len(since_start) == 6
    assert tails.rooms_since(position) == {room_id}
    assert tails.rooms_since(world.feed.position(EVENTS)) == set()


async def test_recent_events_before_the_start_are_unknown(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
    async with open_world(database) as world:
        tails = world.process.services.core.rooms.tails
        await world.send(room_id, ALICE)

        assert tails.since(room_id, VectorPosition(1)) is None
        assert tails.rooms_since(VectorPosition(1)) is None


async def test_join_through_another_process_is_recognized(world: World) -> None:
    without_feed = Memberships(world.database, Feed(), SERVER)
    room_id = await world.create_room(ALICE)
    assert await without_feed.local_membership(room_id, BOB) is None
    assert list(await without_feed.joined(room_id)) == [ALICE]

    await world.join(room_id, BOB)

    assert await without_feed.is_joined(room_id, BOB)
    assert not await without_feed.is_joined(room_id, CAROL)
    own = await without_feed.look_again(room_id, BOB)
    assert own is not None
    assert own.membership == "join"


async def test_members_of_a_room_larger_than_the_cache_stay_in_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In reality 64 MiB are the bound, which 268,000 members exceed.
    monkeypatch.setattr(memberships, "MAX_ROOM_BYTES", 1300)
    async with open_world(database) as world:
        small = await world.create_room(ALICE)
        large = await world.create_room(ALICE, join=[BOB, CAROL, ZOE])
    async with open_world(database) as world:
        await world.memberships.present(small)
        present = await world.memberships.present(large)
        await world.leave(large, BOB)

        assert world.memberships.present_nowait(large) is present
        assert BOB not in present.joined
        assert world.memberships.present_nowait(small) is not None


async def test_state_of_a_room_larger_than_the_cache_stays_in_memory(database: Database) -> None:
    async with open_world(database) as world:
        large = await world.create_room(ALICE, join=[BOB, CAROL])
        states = StateStore(database, world.feed, world.events, max_current_bytes=700)
        before = await states.current(large)

        await world.leave(large, BOB)

        assert states.current_nowait(large) == await world.states.current(large) != before
