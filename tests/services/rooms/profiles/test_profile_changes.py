"""Changed profiles in rooms, guests who must leave, and drafts that name what they replace."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import BadState, Forbidden, MatrixError
from hs.core.ids import RoomID, UserID
from hs.services.accounts.limits.appservice_users import NoAppservices
from hs.services.accounts.profiles.profiles import NoRemoteProfiles, Profiles
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Appended, Draft
from hs.services.rooms.membership.guest_removal import GuestExpulsion
from hs.services.rooms.profiles.profile_propagation import RETRY_S, RoomProfiles
from hs.services.rooms.store.auth_state import DecidingReader
from hs.settings.sections.accounts import RegistrationSettings
from hs.storage.accounts import profiles
from hs.storage.database import Database, Tx
from hs.storage.inline import open_inline
from hs.storage.migrate import bundled_migrations, migrate
from tests.support.meddling import Meddling
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, SERVER

NAMED = {"displayname": "Al", "avatar_url": "mxc://a/b", "m.tz": "UTC"}
SHOWN = {"membership": "join", "displayname": "Al", "avatar_url": "mxc://a/b"}


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


@attrs.define(eq=False)
class Halting:
    """A RoomAppender that gets stuck after some calls."""

    inner: RoomAppender
    left: int
    stuck: trio.Event = attrs.Factory(trio.Event)

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[Appended]:
        if self.left == 0:
            self.stuck.set()
            await trio.sleep_forever()
        self.left -= 1
        return await self.inner.append(room_id, drafts)

    async def create(self, version: str, drafts: list[Draft]) -> list[Appended]:
        return await self.inner.create(version, drafts)


def profiles_of(acts: Actions) -> Profiles:
    """Give what users set their names with."""
    world = acts.world
    return Profiles(
        world.database,
        world.feed,
        acts.delayed.announcements,
        SERVER,
        RegistrationSettings(),
        NoRemoteProfiles(),
        NoAppservices(),
    )


async def name(acts: Actions, user_id: UserID, **fields: str) -> None:
    """Have a user set fields of their profile."""
    for field, value in fields.items():
        await profiles_of(acts).set_field(acts.user(user_id), user_id, field, value)


async def name_fully(acts: Actions, user_id: UserID) -> None:
    """Have a user set all that is in NAMED."""
    await name(acts, user_id, **NAMED)


def showing(acts: Actions, appender: RoomAppender | None = None) -> RoomProfiles:
    """Make what a process shows profiles with."""
    return RoomProfiles(acts.world.database, acts.world.feed, appender or acts.world.appender)


async def shown(acts: Actions, room_id: RoomID, user_id: UserID = ALICE) -> Mapping[str, Any]:
    """Give what a room shows of a user."""
    return await acts.state(room_id, "m.room.member", user_id)


async def waiting(acts: Actions) -> list[UserID]:
    """List whose profiles are to be shown still."""
    return [one.user_id for one in await acts.world.database.read(profiles.changed, 0, 100)]


async def test_a_changed_profile_is_shown_in_all_joined_rooms(acts: Actions) -> None:
    joined = [await acts.world.create_room(BOB, join=[ALICE]) for _ in range(6)]
    left = await acts.world.create_room(BOB, join=[ALICE])
    await acts.world.leave(left, ALICE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(showing(acts).run)
        await name_fully(acts, ALICE)
        with trio.fail_after(60):
            while await waiting(acts):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    for room_id in joined:
        assert await shown(acts, room_id) == SHOWN
    assert (await shown(acts, left))["membership"] == "leave"


async def test_what_a_killed_process_left_is_shown_by_the_next_one(acts: Actions) -> None:
    rooms = [await acts.world.create_room(BOB, join=[ALICE]) for _ in range(6)]
    await name_fully(acts, ALICE)
    halting = Halting(acts.world.appender, left=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(showing(acts, halting).run)
        await halting.stuck.wait()
        while [await shown(acts, room_id) for room_id in rooms].count(SHOWN) < 2:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    seen = len(acts.world.seen)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(showing(acts).run)
        with trio.fail_after(60):
            while await waiting(acts):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    assert [await shown(acts, room_id) for room_id in rooms] == [SHOWN] * 6
    assert len(acts.world.seen) - seen == 4


async def test_a_name_that_is_taken_away_is_shown_no_more(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    await name_fully(acts, ALICE)
    await showing(acts).show_all(set())

    await profiles_of(acts).delete_field(acts.user(ALICE), ALICE, "displayname")
    await showing(acts).show_all(set())

    assert await shown(acts, room_id) == {"membership": "join", "avatar_url": "mxc://a/b"}
    assert await waiting(acts) == []


async def test_an_unchanged_profile_makes_no_events(acts: Actions) -> None:
    await acts.world.create_room(ALICE)
    await name_fully(acts, ALICE)
    await showing(acts).show_all(set())
    seen = len(acts.world.seen)

    await name_fully(acts, ALICE)
    await showing(acts).show_all(set())

    assert len(acts.world.seen) == seen
    assert await waiting(acts) == []


async def test_who_leaves_meanwhile_is_not_brought_back(acts: Actions) -> None:
    room_id = await acts.world.create_room(BOB, join=[ALICE])
    await name_fully(acts, ALICE)
    leave = Draft("m.room.member", ALICE, {"membership": "leave"}, ALICE)
    meddling = Meddling(acts.world.appender, lambda: acts.world.appender.append(room_id, [leave]))

    await showing(acts, meddling).show_all(set())

    assert await shown(acts, room_id) == {"membership": "leave"}
    assert await waiting(acts) == []


async def test_an_older_change_undoes_no_newer_one(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    await name(acts, ALICE, displayname="Al")

    async def change_again() -> None:
        await name(acts, ALICE, avatar_url="mxc://a/b")
        await showing(acts).show_all(set())

    await showing(acts, Meddling(acts.world.appender, change_again)).show_all(set())

    assert await shown(acts, room_id) == SHOWN


async def test_a_change_while_one_is_shown_is_shown_as_well(acts: Actions) -> None:
    rooms = [await acts.world.create_room(ALICE) for _ in range(3)]
    await name(acts, ALICE, displayname="Al")
    meddling = Meddling(acts.world.appender, lambda: name(acts, ALICE, avatar_url="mxc://a/b"))

    await showing(acts, meddling).show_all(set())

    assert [await shown(acts, room_id) for room_id in rooms] == [SHOWN] * 3
    assert await waiting(acts) == []


@pytest.mark.parametrize("error", [MatrixError("M_UNKNOWN", 503, "away"), RuntimeError("a bug")])
async def test_what_fails_in_one_room_is_tried_again_there_alone(
    acts: Actions, error: Exception
) -> None:
    rooms = [await acts.world.create_room(ALICE, join=[BOB]) for _ in range(3)]
    await name(acts, ALICE, displayname="Al")
    await name(acts, BOB, displayname="Bobby")

    async def fail() -> None:
        raise error

    service = showing(acts, Meddling(acts.world.appender, fail))
    failed = await service.show_all(set())
    first = [(await shown(acts, room_id)).get("displayname") for room_id in rooms]
    bobs = [(await shown(acts, room_id, BOB)).get("displayname") for room_id in rooms]
    left = await waiting(acts)
    seen = len(acts.world.seen)
    still_failed = await service.show_all(failed)
    passed_over = len(acts.world.seen) - seen
    failed_again = await service.show_all(set())

    assert len(failed) == 1
    assert sorted(str(one) for one in first) == ["Al", "Al", "None"]
    assert bobs == ["Bobby"] * 3
    assert (left, still_failed, passed_over, failed_again) == ([ALICE], set(), 0, set())
    assert len(acts.world.seen) - seen == 1
    assert await waiting(acts) == []


async def test_what_failed_is_tried_again_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_inline() as database:
        await migrate(database, bundled_migrations(), ["pre", "post"])
        async with open_actions(database) as acts:
            room_id = await acts.world.create_room(ALICE)
            await name(acts, ALICE, displayname="Al")

            async def fail() -> None:
                raise MatrixError("M_UNKNOWN", 503, "away")

            async with trio.open_nursery() as nursery:
                service = showing(acts, Meddling(acts.world.appender, fail))
                nursery.start_soon(service.run)
                await trio.sleep(RETRY_S / 2)
                # That others change theirs brings nothing forward.
                await name(acts, BOB, displayname="Bobby")
                await trio.sleep(RETRY_S / 4)
                before = await waiting(acts)
                await trio.sleep(RETRY_S / 2)
                nursery.cancel_scope.cancel()

            assert (before, await waiting(acts)) == ([ALICE], [])
            assert (await shown(acts, room_id))["displayname"] == "Al"


async def test_what_no_room_takes_is_not_tried_for_ever(acts: Actions) -> None:
    await acts.world.create_room(ALICE)
    await name(acts, ALICE, displayname="Al")

    async def refuse() -> None:
        raise Forbidden("not here")

    await showing(acts, Meddling(acts.world.appender, refuse)).show_all(set())

    assert await waiting(acts) == []


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
