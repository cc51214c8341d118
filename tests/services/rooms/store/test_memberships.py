"""Who is where, from the feed and from the database."""

from hs.core.positions import VectorPosition
from hs.repl.feed import Feed
from hs.repl.streams import EVENTS
from hs.services.rooms.store.memberships import Memberships
from hs.storage.database import Database
from tests.support.reading import readers_of
from tests.support.rooms import ALICE, BOB, CAROL, SERVER, ZOE, World, open_world


async def test_rooms_of_a_user_follow_the_feed(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, invite=[BOB])

    before = await reading.memberships.rooms_of(BOB)
    await world.join(room_id, BOB)
    after = reading.memberships.rooms_of_nowait(BOB)

    assert before[room_id].membership == "invite"
    assert before[room_id].sender == ALICE
    assert after is not None
    assert after[room_id].membership == "join"


async def test_what_is_read_is_what_the_feed_kept(database: Database) -> None:
    async with open_world(database) as world:
        kept = readers_of(world)
        await kept.memberships.rooms_of(BOB)
        room_id = await world.create_room(ALICE, join=[BOB, ZOE], invite=[CAROL])
        await kept.memberships.present(room_id)
        await world.leave(room_id, ALICE)
        await world.leave(room_id, BOB)
        await world.join(room_id, BOB)

        read = readers_of(world)

        for user_id in (ALICE, BOB, CAROL):
            assert await kept.memberships.rooms_of(user_id) == await read.memberships.rooms_of(
                user_id
            )
        one, other = kept.memberships, read.memberships
        assert list(await one.joined(room_id)) == list(await other.joined(room_id)) == [ZOE, BOB]
        assert (await one.present(room_id)).local == {BOB}
        assert (await one.present(room_id)).invited_count == 1
        assert await other.heroes(room_id, BOB) == [ZOE, CAROL]


async def test_heroes_are_those_who_left_when_nobody_else_is_there(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.leave(room_id, BOB)

    assert await reading.memberships.heroes(room_id, ALICE) == [BOB]


async def test_membership_of_strangers(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, join=[ZOE])

    assert await reading.memberships.membership(room_id, ZOE) == "join"
    assert await reading.memberships.membership(room_id, CAROL) is None
    assert await reading.memberships.share_room(ALICE, ZOE)
    assert not await reading.memberships.share_room(CAROL, ZOE)


async def test_a_tail_gives_what_came_behind_a_position(world: World) -> None:
    reading = readers_of(world)
    start = world.feed.position(EVENTS)
    room_id = await world.create_room(ALICE)
    position = world.feed.position(EVENTS)
    first = await world.send(room_id, ALICE, "one")
    second = await world.send(room_id, ALICE, "two")

    news = reading.tails.since(room_id, position)
    all_of_it = reading.tails.since(room_id, start)

    assert news is not None
    assert [one.event_id for one in news] == [first.event_id, second.event_id]
    assert all_of_it is not None
    assert len(all_of_it) == 6
    assert reading.tails.rooms_since(position) == {room_id}
    assert reading.tails.rooms_since(world.feed.position(EVENTS)) == set()


async def test_a_tail_does_not_answer_for_what_it_never_saw(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
    async with open_world(database) as world:
        reading = readers_of(world)
        await world.send(room_id, ALICE)

        assert reading.tails.since(room_id, VectorPosition(1)) is None
        assert reading.tails.rooms_since(VectorPosition(1)) is None


async def test_who_has_just_joined_by_another_process_is_not_refused(world: World) -> None:
    deaf = Memberships(world.database, Feed(), SERVER)
    room_id = await world.create_room(ALICE)
    assert await deaf.local_membership(room_id, BOB) is None
    assert list(await deaf.joined(room_id)) == [ALICE]

    await world.join(room_id, BOB)

    assert await deaf.is_joined(room_id, BOB)
    assert not await deaf.is_joined(room_id, CAROL)
    own = await deaf.look_again(room_id, BOB)
    assert own is not None
    assert own.membership == "join"
