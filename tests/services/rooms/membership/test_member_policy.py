"""The settings for memberships, one by one."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from hs.core.errors import Forbidden
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import CACHES
from hs.repl.memory_writer import MemoryWriter
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.creation.initial_events import NewRoomRequest
from hs.services.rooms.membership.auto_accept_invites import AutoAcceptDuty, Joining
from hs.services.rooms.membership.forget_on_leave import ForgetOnLeaveDuty
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership import JoinRequest
from hs.services.rooms.read.stripped_state import StrippedState, included_state
from hs.settings.sections.retention import AutoAcceptSettings, PrejoinSettings
from hs.settings.sections.rooms import RoomSettings
from hs.storage.database import Database, DatabaseUnavailable, Tx
from hs.storage.rooms import rooms
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, ZOE


@asynccontextmanager
async def open_with(database: Database, **settings: Any) -> AsyncIterator[Actions]:
    """Open rooms with settings; Bob and Carol have display names."""
    chosen = RoomSettings(**settings)
    async with open_actions(database, settings=chosen) as actions:
        actions.membership = attrs.evolve(actions.membership, policy=MemberPolicy(chosen))
        for user_id in (BOB, CAROL):
            actions.profiles.known[user_id] = {"displayname": user_id[1:4].upper()}
        yield actions


async def member_of(actions: Actions, room_id: RoomID, user_id: UserID) -> dict[str, Any]:
    return dict(await actions.state(room_id, "m.room.member", user_id))


@pytest.mark.parametrize("blocked", [False, True])
async def test_block_non_admin_invites(database: Database, blocked: bool) -> None:
    async with open_with(database, block_non_admin_invites=blocked) as actions:
        room_id = await actions.world.create_room(ALICE)
        member, admin = Requester(ALICE), Requester(ALICE, is_admin=True)
        requests = (
            actions.membership.invite(member, room_id, BOB),
            actions.membership.set_member(member, room_id, BOB, {"membership": "invite"}),
            actions.creation.create(member, NewRoomRequest(invite=(BOB,))),
        )

        for request in requests:
            if blocked:
                with pytest.raises(Forbidden):
                    await request
            else:
                await request
        await actions.membership.invite(admin, room_id, CAROL)

        assert await actions.memberships.membership(room_id, CAROL) == "invite"


@pytest.mark.parametrize("included", [False, True])
async def test_include_profile_data_on_invite(database: Database, included: bool) -> None:
    async with open_with(database, include_profile_data_on_invite=included) as actions:
        made = await actions.creation.create(Requester(ALICE), NewRoomRequest(invite=(BOB,)))
        await actions.membership.invite(Requester(ALICE), made, CAROL)

        assert ("displayname" in await member_of(actions, made, BOB)) is included
        assert ("displayname" in await member_of(actions, made, CAROL)) is included
        await actions.membership.join(Requester(BOB), made, JoinRequest())
        assert (await member_of(actions, made, BOB))["displayname"] == "BOB"


@pytest.mark.parametrize("allowed", [False, True])
async def test_allow_per_room_profiles(database: Database, allowed: bool) -> None:
    async with open_with(database, allow_per_room_profiles=allowed) as actions:
        room_id = await actions.world.create_room(ALICE)
        content = {"membership": "join", "displayname": "Robert", "own": 1}
        await actions.membership.set_member(Requester(BOB), room_id, BOB, content)

        member = await member_of(actions, room_id, BOB)

        assert member["displayname"] == ("Robert" if allowed else "BOB")
        assert member["own"] == 1


@pytest.mark.parametrize("needed", [False, True])
async def test_only_members_add_aliases(database: Database, needed: bool) -> None:
    async with open_with(database) as actions:
        naming = attrs.evolve(actions.naming, members_only=needed)
        room_id = await actions.world.create_room(ALICE)
        alias = actions.aliases.local_alias("garden")

        if needed:
            with pytest.raises(Forbidden):
                await naming.add_alias(Requester(BOB), alias, room_id)
        else:
            await naming.add_alias(Requester(BOB), alias, room_id)

        assert (await actions.aliases.find(alias) is not None) is not needed


async def test_leaving_or_being_banned_forgets_the_room(database: Database) -> None:
    async with open_with(database) as actions:
        world = actions.world
        drops = MemoryWriter(CACHES, "main", world.transport, 1)
        drops.attach()
        leavers = ForgetOnLeaveDuty(
            database, world.feed, drops, actions.memberships.is_local, lambda room_id: True
        )
        room_id = await world.create_room(ALICE, join=[BOB, CAROL, ZOE])
        await world.leave(room_id, BOB)
        await world.set_membership(room_id, ALICE, CAROL, "ban")

        await leavers.forget_waiting()

        for user_id in (BOB, CAROL):
            own = await actions.memberships.local_membership(room_id, user_id)
            assert own is not None
            assert own.forgotten
        own = await actions.memberships.local_membership(room_id, ALICE)
        assert own is not None
        assert not own.forgotten


async def test_a_room_is_forgotten_after_the_database_was_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_with(database) as actions:
        world = actions.world
        drops = MemoryWriter(CACHES, "main", world.transport, 1)
        drops.attach()
        leavers = ForgetOnLeaveDuty(
            database, world.feed, drops, actions.memberships.is_local, lambda room_id: True
        )
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.leave(room_id, BOB)
        with monkeypatch.context() as patch:
            patch.setattr(rooms, "forget", be_away)
            with pytest.raises(DatabaseUnavailable):
                await leavers.forget_waiting()

        await leavers.forget_waiting()

        own = await actions.memberships.local_membership(room_id, BOB)
        assert own is not None
        assert own.forgotten


async def be_away(tx: Tx, user_id: str, room_id: str) -> bool:
    raise DatabaseUnavailable("away")


@attrs.define(eq=False)
class FailingOnce:
    """Joins users to rooms, but fails at first with the given errors, by room."""

    joining: Joining
    errors: dict[RoomID, Exception]

    async def join(self, requester: Requester, room_id: RoomID, asked: JoinRequest) -> RoomID:
        if room_id in self.errors:
            raise self.errors.pop(room_id)
        return await self.joining.join(requester, room_id, asked)


async def test_an_invite_that_fails_is_kept_or_passed_over(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_with(database) as actions:
        world = actions.world
        joining = FailingOnce(actions.membership, {})
        accept = AutoAcceptDuty(
            settings=AutoAcceptSettings(enabled=True),
            feed=world.feed,
            events=world.events,
            memberships=actions.memberships,
            joining=joining,
            own_data=actions.own,
        )
        away, broken, fine = [await world.create_room(ALICE, invite=[BOB]) for _ in range(3)]
        joining.errors = {away: DatabaseUnavailable("away"), broken: ValueError("broken")}

        with pytest.raises(DatabaseUnavailable):
            await accept.accept_waiting()
        with caplog.at_level(logging.CRITICAL):
            await accept.accept_waiting()

        assert await actions.memberships.membership(away, BOB) == "join"
        assert await actions.memberships.membership(broken, BOB) == "invite"
        assert await actions.memberships.membership(fine, BOB) == "join"


@pytest.mark.parametrize(
    ("settings", "joined"),
    [
        ({}, {"direct", "room", "remote"}),
        ({"only_for_direct_messages": True}, {"direct"}),
        ({"only_from_local_users": True}, {"direct", "room"}),
    ],
)
async def test_invites_are_accepted_automatically(
    database: Database, settings: dict[str, Any], joined: set[str]
) -> None:
    async with open_with(database) as actions:
        world = actions.world
        accept = AutoAcceptDuty(
            settings=AutoAcceptSettings(enabled=True, **settings),
            feed=world.feed,
            events=world.events,
            memberships=actions.memberships,
            joining=actions.membership,
            own_data=actions.own,
        )
        rooms = {name: await world.create_room(ALICE, join=[ZOE]) for name in joined | {"room"}}
        invited = {"direct": (ALICE, True), "room": (ALICE, False), "remote": (ZOE, False)}
        for name, room_id in rooms.items():
            sender, is_direct = invited[name]
            content = {"membership": "invite", **({"is_direct": True} if is_direct else {})}
            await world.append(room_id, Draft("m.room.member", sender, content, BOB))

        await accept.accept_waiting()

        found = {
            name
            for name, room_id in rooms.items()
            if await actions.memberships.membership(room_id, BOB) == "join"
        }
        assert found == joined
        assert actions.own.data[BOB, None, "m.direct"] == {ALICE: [rooms["direct"]]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PrejoinSettings(), {"m.room.create", "m.room.join_rules", "m.room.name"}),
        (
            PrejoinSettings(disable_default_event_types=True, additional_event_types=()),
            set(),
        ),
        (
            PrejoinSettings(
                disable_default_event_types=True,
                additional_event_types=(("org.all", None), ("org.one", "a")),
            ),
            {"org.all", "org.one"},
        ),
    ],
)
async def test_stripped_state_has_the_configured_types(
    database: Database, settings: PrejoinSettings, expected: set[str]
) -> None:
    async with open_with(database) as actions:
        world = actions.world
        state = [
            Draft("m.room.name", ALICE, {"name": "garden"}, ""),
            *(Draft(name, ALICE, {}, key) for name in ("org.all", "org.one") for key in "ab"),
        ]
        room_id = await world.create_room(ALICE, state=state, invite=[BOB])
        own = await actions.memberships.local_membership(room_id, BOB)
        assert own is not None
        reader = StrippedState(database, world.events, world.states, included_state(settings))

        events = (await reader.of(BOB, {room_id: own}))[room_id]

        assert {event["type"] for event in events} - {"m.room.member"} == expected
        assert [event["state_key"] for event in events if event["type"] == "org.one"] == (
            ["a"] if "org.one" in expected else []
        )
        assert events[-1]["state_key"] == BOB
        senders = [event["state_key"] for event in events if event["type"] == "m.room.member"]
        assert senders == [ALICE, BOB]
