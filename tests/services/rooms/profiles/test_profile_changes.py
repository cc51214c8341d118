"""Profile changes in rooms, removal of guests, and drafts that replace a state event."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import BadState, Forbidden, MatrixError
from hs.core.ids import RoomID, UserID
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.services.rooms.profiles.profile_propagation import RETRY_S, RoomProfiles
from hs.storage.accounts import profiles
from hs.storage.database import Database, Tx
from tests.support.interfering import InterferingAppender
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sql.databases import fresh_inline

NAMED = {"displayname": "Al", "avatar_url": "mxc://a/b", "m.tz": "UTC"}
SHOWN = {"membership": "join", "displayname": "Al", "avatar_url": "mxc://a/b"}


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


@attrs.define(eq=False)
class StuckAppender:
    """A RoomAppender that hangs after `left` calls."""

    inner: RoomAppender
    left: int
    stuck: trio.Event = attrs.Factory(trio.Event)

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        if self.left == 0:
            self.stuck.set()
            await trio.sleep_forever()
        self.left -= 1
        return await self.inner.append(room_id, drafts)

    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        return await self.inner.create(version, drafts)


async def set_whole_profile(acts: Actions, user_id: UserID) -> None:
    """Set the fields in NAMED."""
    await acts.set_profile(user_id, **NAMED)


def room_profiles_of(acts: Actions) -> RoomProfiles:
    """Return the propagation of profiles in the process."""
    propagation = acts.services.profiles.propagation
    assert propagation is not None
    return propagation


def appending_by(acts: Actions, appender: RoomAppender) -> RoomProfiles:
    """Return the propagation of profiles by an appender of the test."""
    return RoomProfiles(acts.world.database, acts.world.feed, appender)


async def propagate(acts: Actions) -> None:
    """Run the duty until all changes are propagated."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acts.world.process.run_duty, "profile updates in rooms")
        with trio.fail_after(60):
            while await users_waiting(acts):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def member_content(
    acts: Actions, room_id: RoomID, user_id: UserID = ALICE
) -> Mapping[str, Any]:
    """Return the content of a user's member event."""
    return await acts.state(room_id, "m.room.member", user_id)


async def users_waiting(acts: Actions) -> list[UserID]:
    """Return the users whose changes are not propagated yet."""
    return [row.user_id for row in await acts.world.database.read(profiles.list_changes, 0, 100)]


async def test_changed_profile_is_set_in_all_joined_rooms(acts: Actions) -> None:
    joined = [await acts.world.create_room(BOB, join=[ALICE]) for _ in range(6)]
    left = await acts.world.create_room(BOB, join=[ALICE])
    await acts.world.leave(left, ALICE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(acts.world.process.run_duty, "profile updates in rooms")
        await set_whole_profile(acts, ALICE)
        with trio.fail_after(60):
            while await users_waiting(acts):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    for room_id in joined:
        assert await member_content(acts, room_id) == SHOWN
    assert (await member_content(acts, left))["membership"] == "leave"


async def test_propagation_continues_after_a_killed_process(acts: Actions) -> None:
    rooms = [await acts.world.create_room(BOB, join=[ALICE]) for _ in range(6)]
    await set_whole_profile(acts, ALICE)
    halting = StuckAppender(acts.world.appender, left=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(appending_by(acts, halting).run)
        await halting.stuck.wait()
        while [await member_content(acts, room_id) for room_id in rooms].count(SHOWN) < 2:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    seen = len(acts.world.seen)

    await propagate(acts)

    assert [await member_content(acts, room_id) for room_id in rooms] == [SHOWN] * 6
    assert len(acts.world.seen) - seen == 4


async def test_removed_field_is_removed_from_rooms(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    await set_whole_profile(acts, ALICE)
    await room_profiles_of(acts).show_all(set())

    await acts.services.core.accounts.profiles.delete_field(acts.user(ALICE), ALICE, "displayname")
    await room_profiles_of(acts).show_all(set())

    assert await member_content(acts, room_id) == {"membership": "join", "avatar_url": "mxc://a/b"}
    assert await users_waiting(acts) == []


async def test_unchanged_profile_creates_no_events(acts: Actions) -> None:
    await acts.world.create_room(ALICE)
    await set_whole_profile(acts, ALICE)
    await room_profiles_of(acts).show_all(set())
    seen = len(acts.world.seen)

    await set_whole_profile(acts, ALICE)
    await room_profiles_of(acts).show_all(set())

    assert len(acts.world.seen) == seen
    assert await users_waiting(acts) == []


async def test_user_who_leaves_meanwhile_stays_out(acts: Actions) -> None:
    room_id = await acts.world.create_room(BOB, join=[ALICE])
    await set_whole_profile(acts, ALICE)
    leave = Draft("m.room.member", ALICE, {"membership": "leave"}, ALICE)
    meddling = InterferingAppender(
        acts.world.appender, lambda: acts.world.appender.append(room_id, [leave])
    )

    await appending_by(acts, meddling).show_all(set())

    assert await member_content(acts, room_id) == {"membership": "leave"}
    assert await users_waiting(acts) == []


async def test_older_change_does_not_undo_a_newer_one(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    await acts.set_profile(ALICE, displayname="Al")

    async def change_again() -> None:
        await acts.set_profile(ALICE, avatar_url="mxc://a/b")
        await room_profiles_of(acts).show_all(set())

    meddling = InterferingAppender(acts.world.appender, change_again)
    await appending_by(acts, meddling).show_all(set())

    assert await member_content(acts, room_id) == SHOWN


async def test_change_during_propagation_is_propagated(acts: Actions) -> None:
    rooms = [await acts.world.create_room(ALICE) for _ in range(3)]
    await acts.set_profile(ALICE, displayname="Al")
    meddling = InterferingAppender(
        acts.world.appender, lambda: acts.set_profile(ALICE, avatar_url="mxc://a/b")
    )

    await appending_by(acts, meddling).show_all(set())

    assert [await member_content(acts, room_id) for room_id in rooms] == [SHOWN] * 3
    assert await users_waiting(acts) == []


@pytest.mark.parametrize("error", [MatrixError("M_UNKNOWN", 503, "away"), RuntimeError("a bug")])
async def test_failure_is_retried_in_that_room_only(acts: Actions, error: Exception) -> None:
    rooms = [await acts.world.create_room(ALICE, join=[BOB]) for _ in range(3)]
    await acts.set_profile(ALICE, displayname="Al")
    await acts.set_profile(BOB, displayname="Bobby")

    async def fail() -> None:
        raise error

    service = appending_by(acts, InterferingAppender(acts.world.appender, fail))
    failed = await service.show_all(set())
    first = [(await member_content(acts, room_id)).get("displayname") for room_id in rooms]
    bobs = [(await member_content(acts, room_id, BOB)).get("displayname") for room_id in rooms]
    left = await users_waiting(acts)
    seen = len(acts.world.seen)
    still_failed = await service.show_all(failed)
    passed_over = len(acts.world.seen) - seen
    failed_again = await service.show_all(set())

    assert len(failed) == 1
    assert sorted(str(name) for name in first) == ["Al", "Al", "None"]
    assert bobs == ["Bobby"] * 3
    assert (left, still_failed, passed_over, failed_again) == ([ALICE], set(), 0, set())
    assert len(acts.world.seen) - seen == 1
    assert await users_waiting(acts) == []


async def test_failure_is_retried_after_a_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with fresh_inline() as database:
        async with open_actions(database) as acts:
            room_id = await acts.world.create_room(ALICE)
            await acts.set_profile(ALICE, displayname="Al")

            async def fail() -> None:
                raise MatrixError("M_UNKNOWN", 503, "away")

            async with trio.open_nursery() as nursery:
                service = appending_by(acts, InterferingAppender(acts.world.appender, fail))
                nursery.start_soon(service.run)
                await trio.sleep(RETRY_S / 2)
                # That others change theirs brings nothing forward.
                await acts.set_profile(BOB, displayname="Bobby")
                await trio.sleep(RETRY_S / 4)
                before = await users_waiting(acts)
                await trio.sleep(RETRY_S / 2)
                nursery.cancel_scope.cancel()

            assert (before, await users_waiting(acts)) == ([ALICE], [])
            assert (await member_content(acts, room_id))["displayname"] == "Al"


async def test_forbidden_change_is_not_retried(acts: Actions) -> None:
    await acts.world.create_room(ALICE)
    await acts.set_profile(ALICE, displayname="Al")

    async def refuse() -> None:
        raise Forbidden("not here")

    await appending_by(acts, InterferingAppender(acts.world.appender, refuse)).show_all(set())

    assert await users_waiting(acts) == []


async def test_draft_is_rejected_if_the_replaced_event_is_not_current(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    first = await acts.world.set_state(room_id, ALICE, "m.room.name", {"name": "1"})

    def rename(new_name: str) -> Draft:
        return Draft("m.room.name", ALICE, {"name": new_name}, "", replaces=first.event_id)

    await acts.world.append(room_id, rename("2"))

    with pytest.raises(BadState):
        await acts.world.append(room_id, rename("3"))
    assert await acts.state(room_id, "m.room.name") == {"name": "2"}


async def make_guest(tx: Tx, user_id: UserID) -> None:
    await tx.execute("INSERT INTO users (user_id, created_ms, is_guest) VALUES ($1, 0, 1)", user_id)


async def test_guests_are_removed_when_guest_access_is_forbidden(acts: Actions) -> None:
    world = acts.world
    await world.database.write(make_guest, BOB)
    guests = acts.services.members.duties.guest_removal
    assert guests is not None
    open_now = Draft("m.room.guest_access", ALICE, {"guest_access": "can_join"}, "")
    room_id = await world.create_room(ALICE, join=[BOB, CAROL], state=[open_now])

    async with trio.open_nursery() as nursery:
        await nursery.start(guests.run)
        await guests.remove_guests(room_id)
        still_in = await acts.memberships.is_joined(room_id, BOB)
        await world.set_state(room_id, ALICE, "m.room.guest_access", {"guest_access": "forbidden"})
        with trio.fail_after(60):
            while await acts.memberships.is_joined(room_id, BOB):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    assert still_in
    assert await acts.memberships.is_joined(room_id, CAROL)
