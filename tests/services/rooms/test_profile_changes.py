"""Changed profiles in rooms, guests who must leave, and drafts that name what they replace."""

from collections.abc import AsyncIterator

import pytest
import trio

from hs.core.errors import BadState
from hs.core.ids import UserID
from hs.services.rooms.deciding import DecidingReader
from hs.services.rooms.drafts import Draft
from hs.services.rooms.guests import GuestExpulsion
from hs.services.rooms.profile_propagation import RoomProfiles
from hs.storage.database import Database, Tx
from tests.support.meddling import Meddling
from tests.support.room_actions import Actions, Profiles, open_actions
from tests.support.rooms import ALICE, BOB, CAROL

NAMED = {"displayname": "Al", "avatar_url": "mxc://a/b", "m.tz": "UTC"}


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


async def test_a_changed_profile_is_shown_in_all_joined_rooms(acts: Actions) -> None:
    joined = [await acts.world.create_room(BOB, join=[ALICE]) for _ in range(6)]
    left = await acts.world.create_room(BOB, join=[ALICE])
    await acts.world.leave(left, ALICE)
    profiles = RoomProfiles(acts.world.appender, acts.memberships, Profiles({ALICE: NAMED}))

    async with trio.open_nursery() as nursery:
        await nursery.start(profiles.run)
        await profiles.profile_changed(ALICE)
        await profiles.profile_changed(ALICE)
        with trio.fail_after(60):
            while (await acts.state(joined[-1], "m.room.member", ALICE)).get("displayname") != "Al":
                await trio.lowlevel.checkpoint()
            for room_id in joined:
                while "avatar_url" not in await acts.state(room_id, "m.room.member", ALICE):
                    await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    for room_id in joined:
        assert await acts.state(room_id, "m.room.member", ALICE) == {
            "membership": "join",
            "displayname": "Al",
            "avatar_url": "mxc://a/b",
        }
    assert (await acts.state(left, "m.room.member", ALICE))["membership"] == "leave"


async def test_an_unchanged_profile_makes_no_events(acts: Actions) -> None:
    await acts.world.create_room(ALICE)
    profiles = RoomProfiles(acts.world.appender, acts.memberships, Profiles({ALICE: NAMED}))
    await profiles.show(ALICE)
    seen = len(acts.world.seen)

    await profiles.show(ALICE)

    assert len(acts.world.seen) == seen


async def test_who_leaves_meanwhile_is_not_brought_back(acts: Actions) -> None:
    room_id = await acts.world.create_room(BOB, join=[ALICE])
    leave = Draft("m.room.member", ALICE, {"membership": "leave"}, ALICE)
    meddling = Meddling(acts.world.appender, lambda: acts.world.appender.append(room_id, [leave]))
    profiles = RoomProfiles(meddling, acts.memberships, Profiles({ALICE: NAMED}))

    await profiles.show(ALICE)

    assert await acts.state(room_id, "m.room.member", ALICE) == {"membership": "leave"}


async def test_an_older_change_undoes_no_newer_one_of_another_process(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    known = Profiles({ALICE: {"displayname": "Al"}})
    there = RoomProfiles(acts.world.appender, acts.memberships, known)

    async def change_again() -> None:
        known.known[ALICE] = {"displayname": "Al", "avatar_url": "mxc://a/b"}
        await there.show(ALICE)

    here = RoomProfiles(Meddling(acts.world.appender, change_again), acts.memberships, known)

    await here.show(ALICE)

    shown = await acts.state(room_id, "m.room.member", ALICE)
    assert shown == {"membership": "join", "displayname": "Al", "avatar_url": "mxc://a/b"}


async def test_a_draft_is_refused_when_what_it_replaces_is_gone(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    first = await acts.world.set_state(room_id, ALICE, "m.room.name", {"name": "1"})

    def rename(name: str) -> Draft:
        return Draft("m.room.name", ALICE, {"name": name}, "", replaces=first.event_id)

    await acts.world.append(room_id, rename("2"))

    with pytest.raises(BadState):
        await acts.world.append(room_id, rename("3"))
    assert await acts.state(room_id, "m.room.name") == {"name": "2"}


async def make_guest(tx: Tx, user_id: UserID) -> None:
    await tx.execute("INSERT INTO users (user_id, created_ms, is_guest) VALUES ($1, 0, 1)", user_id)


async def test_guests_leave_when_a_room_is_shut_to_them(acts: Actions) -> None:
    world = acts.world
    await world.database.write(make_guest, BOB)
    guests = GuestExpulsion(
        world.database,
        world.feed,
        world.appender,
        DecidingReader(world.states, world.events),
        acts.memberships,
        lambda room_id: True,
    )
    open_now = Draft("m.room.guest_access", ALICE, {"guest_access": "can_join"}, "")
    room_id = await world.create_room(ALICE, join=[BOB, CAROL], state=[open_now])

    async with trio.open_nursery() as nursery:
        await nursery.start(guests.run)
        await guests.expel(room_id)
        still_in = await acts.memberships.is_joined(room_id, BOB)
        await world.set_state(room_id, ALICE, "m.room.guest_access", {"guest_access": "forbidden"})
        with trio.fail_after(60):
            while await acts.memberships.is_joined(room_id, BOB):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    assert still_in
    assert await acts.memberships.is_joined(room_id, CAROL)
