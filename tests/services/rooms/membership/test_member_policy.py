"""The settings for memberships, one by one."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from hs.core.errors import Forbidden
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.creation.initial_events import InitialState, NewRoomRequest
from hs.services.rooms.membership.room_joins import JoinRequest, RoomJoins
from hs.settings.sections.retention import AutoAcceptSettings, PrejoinSettings
from hs.settings.sections.rooms import RoomSettings
from hs.settings.settings import Settings
from hs.storage.database import Database, DatabaseUnavailable, Tx
from hs.storage.rooms import rooms
from tests.support.composition import SETTINGS
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, ZOE

KEYS = {"display_name": "d", "public_key": "k", "key_validity_url": "https://id.test/valid"}
INVITED_ADDRESS = ("m.room.third_party_invite", "token", KEYS)


@asynccontextmanager
async def open_with(
    database: Database, settings: Settings = SETTINGS, **of_rooms: Any
) -> AsyncIterator[Actions]:
    """Compose a process with settings; Bob and Carol have display names."""
    settings = attrs.evolve(settings, rooms=RoomSettings(**of_rooms))
    async with open_actions(database, settings) as actions:
        for user_id in (BOB, CAROL):
            await actions.set_profile(user_id, displayname=user_id[1:4].upper())
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
            actions.delayed.sending.state(member, room_id, *INVITED_ADDRESS),
            actions.creation.create(
                member,
                NewRoomRequest(initial_state=(InitialState("m.room.third_party_invite", KEYS),)),
            ),
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
        await actions.services.members.joins.join(Requester(BOB), made, JoinRequest())
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
    async with open_with(database, require_membership_for_aliases=needed) as actions:
        naming = actions.services.aliases.naming
        room_id = await actions.world.create_room(ALICE)
        alias = actions.aliases.local_alias("garden")

        if needed:
            with pytest.raises(Forbidden):
                await naming.add_alias(Requester(BOB), alias, room_id)
        else:
            await naming.add_alias(Requester(BOB), alias, room_id)

        assert (await actions.aliases.find(alias) is not None) is not needed


async def is_forgotten(actions: Actions, room_id: RoomID, user_id: UserID) -> bool:
    own = await actions.memberships.local_membership(room_id, user_id)
    assert own is not None
    return own.forgotten


async def forget_waiting(actions: Actions) -> None:
    """Forget the rooms of all departures so far."""
    duty = actions.services.members.duties.forget_on_leave
    assert duty is not None
    await duty.forget_waiting()


async def test_leaving_or_being_banned_forgets_the_room(database: Database) -> None:
    async with open_with(database, forget_rooms_on_leave=True) as actions:
        world = actions.world
        room_id = await world.create_room(ALICE, join=[BOB, CAROL, ZOE])
        await world.leave(room_id, BOB)
        await world.set_membership(room_id, ALICE, CAROL, "ban")

        await forget_waiting(actions)

        assert await is_forgotten(actions, room_id, BOB)
        assert await is_forgotten(actions, room_id, CAROL)
        assert not await is_forgotten(actions, room_id, ALICE)


async def test_a_room_is_forgotten_after_the_database_was_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_with(database, forget_rooms_on_leave=True) as actions:
        room_id = await actions.world.create_room(ALICE, join=[BOB])
        await actions.world.leave(room_id, BOB)
        with monkeypatch.context() as patch:
            patch.setattr(rooms, "forget", be_away)
            with pytest.raises(DatabaseUnavailable):
                await forget_waiting(actions)

        await forget_waiting(actions)

        assert await is_forgotten(actions, room_id, BOB)


async def be_away(tx: Tx, user_id: str, room_id: str) -> bool:
    raise DatabaseUnavailable("away")


def auto_accepting(**settings: Any) -> Settings:
    return attrs.evolve(SETTINGS, auto_accept=AutoAcceptSettings(enabled=True, **settings))


async def accept_waiting(actions: Actions) -> None:
    """Accept all invites so far."""
    duty = actions.services.members.duties.auto_accept
    assert duty is not None
    await duty.accept_waiting()


async def test_an_invite_that_fails_is_kept_or_passed_over(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_with(database, auto_accepting()) as actions:
        away, broken, fine = [
            await actions.world.create_room(ALICE, invite=[BOB]) for _ in range(3)
        ]
        errors = {away: DatabaseUnavailable("away"), broken: ValueError("broken")}
        join = RoomJoins.join

        async def fail_once(
            self: RoomJoins, requester: Requester, room_id: RoomID, request: JoinRequest
        ) -> EventID:
            if room_id in errors:
                raise errors.pop(room_id)
            return await join(self, requester, room_id, request)

        monkeypatch.setattr(RoomJoins, "join", fail_once)

        with pytest.raises(DatabaseUnavailable):
            await accept_waiting(actions)
        with caplog.at_level(logging.CRITICAL):
            await accept_waiting(actions)

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
    async with open_with(database, auto_accepting(**settings)) as actions:
        world = actions.world
        rooms = {name: await world.create_room(ALICE, join=[ZOE]) for name in joined | {"room"}}
        invited = {"direct": (ALICE, True), "room": (ALICE, False), "remote": (ZOE, False)}
        for name, room_id in rooms.items():
            sender, is_direct = invited[name]
            content = {"membership": "invite", **({"is_direct": True} if is_direct else {})}
            await world.append(room_id, Draft("m.room.member", sender, content, BOB))

        await accept_waiting(actions)

        found = {
            name
            for name, room_id in rooms.items()
            if await actions.memberships.membership(room_id, BOB) == "join"
        }
        assert found == joined
        direct = await actions.account_data(BOB, None, "m.direct")
        assert direct == {ALICE: [rooms["direct"]]}


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
    async with open_with(database, attrs.evolve(SETTINGS, prejoin=settings)) as actions:
        world = actions.world
        state = [
            Draft("m.room.name", ALICE, {"name": "garden"}, ""),
            *(Draft(name, ALICE, {}, key) for name in ("org.all", "org.one") for key in "ab"),
        ]
        room_id = await world.create_room(ALICE, state=state, invite=[BOB])

        response = await actions.client().get("/_matrix/client/v3/sync", token="bob")

        events = response.json["rooms"]["invite"][room_id]["invite_state"]["events"]

        assert {event["type"] for event in events} - {"m.room.member"} == expected
        assert [event["state_key"] for event in events if event["type"] == "org.one"] == (
            ["a"] if "org.one" in expected else []
        )
        assert events[-1]["state_key"] == BOB
        senders = [event["state_key"] for event in events if event["type"] == "m.room.member"]
        assert senders == [ALICE, BOB]
