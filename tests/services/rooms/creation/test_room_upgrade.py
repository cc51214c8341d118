"""Upgrading rooms: what is copied to the new room, and what changes in the old one."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio

from hs.core.errors import (
    Forbidden,
    InvalidParam,
    NotFound,
    TooLarge,
    UnsupportedRoomVersion,
)
from hs.core.ids import RoomID, UserID
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.membership.room_joins import JoinRequest
from hs.services.rooms.membership.room_succession import predecessor_of
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.interfering import InterferingAppender
from tests.support.room_actions import DAVE, Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


async def upgrade(acts: Actions, room_id: RoomID, version: str, *creators: str) -> RoomID:
    requester = acts.tokens.requesters["alice"]
    return await acts.upgrades.upgrade(requester, room_id, version, creators)


def state(event_type: str, content: dict[str, Any], key: str = "") -> Draft:
    return Draft(event_type, ALICE, content, key)


@pytest.mark.parametrize(("old", "new"), [("1", "6"), ("6", "11"), ("11", "12"), ("12", "12")])
async def test_state_and_aliases_are_carried_over(acts: Actions, old: str, new: str) -> None:
    room_id = await acts.world.create_room(
        ALICE,
        version=old,
        join=[BOB, CAROL],
        state=[
            state("m.room.name", {"name": "Pub"}),
            state("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}),
            state("org.example", {"x": 1}),
        ],
        power_levels={"users": {BOB: 60} | ({} if old == "12" else {ALICE: 100})},
    )
    await acts.world.set_membership(room_id, ALICE, CAROL, "ban")
    last = await acts.world.send(room_id, BOB)
    alias = acts.aliases.local_alias("pub")
    await acts.aliases.add(ALICE, alias, room_id)
    await acts.world.set_state(room_id, ALICE, "m.room.canonical_alias", {"alias": alias})
    await acts.public_rooms.set_listed(room_id, True)

    replacement = await upgrade(acts, room_id, new)

    create = await acts.state(replacement, "m.room.create")
    assert create["room_version"] == new
    assert create["predecessor"]["room_id"] == room_id
    assert create["predecessor"]["event_id"] != last.event_id
    assert await acts.state(replacement, "m.room.name") == {"name": "Pub"}
    assert "algorithm" in await acts.state(replacement, "m.room.encryption")
    assert await acts.state(replacement, "org.example") == {}
    assert await acts.state(replacement, "m.room.canonical_alias") == {"alias": alias}
    assert await acts.state(replacement, "m.room.member", CAROL) == {"membership": "ban"}
    assert await acts.state(replacement, "m.room.member", BOB) == {}
    levels = await acts.state(replacement, "m.room.power_levels")
    assert levels["users"] == {BOB: 60} | ({} if new == "12" else {ALICE: 100})
    tombstone = await acts.state(room_id, "m.room.tombstone")
    assert tombstone["replacement_room"] == replacement
    assert await acts.state(room_id, "m.room.canonical_alias") == {}
    silenced = await acts.state(room_id, "m.room.power_levels")
    assert (silenced["events_default"], silenced["invite"]) == (50, 50)
    found = await acts.aliases.find(alias)
    assert found is not None
    assert found.room_id == replacement
    assert await acts.public_rooms.is_listed(replacement)
    assert not await acts.public_rooms.is_listed(room_id)


async def test_upgrading_gives_no_additional_power(
    acts: Actions,
) -> None:
    levels = {"users": {ALICE: 50, BOB: 100}, "events": {"m.room.encryption": 100}}
    room_id = await acts.world.create_room(
        ALICE,
        state=[
            state("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}),
            state("m.room.power_levels", levels),
        ],
    )

    replacement = await upgrade(acts, room_id, "11")

    assert await acts.state(replacement, "m.room.power_levels") == levels
    assert "algorithm" in await acts.state(replacement, "m.room.encryption")


async def test_power_levels_as_strings_become_integers(acts: Actions) -> None:
    room_id = await acts.world.create_room(
        ALICE, version="1", power_levels={"users": {ALICE: "100"}, "kick": " 40 ", "ban": 1.5}
    )

    replacement = await upgrade(acts, room_id, "10")

    levels = await acts.state(replacement, "m.room.power_levels")
    assert levels["users"] == {ALICE: 100}
    assert levels["kick"] == 40
    assert levels["ban"] == 1


async def test_additional_creators_are_translated_to_power_levels_and_back(acts: Actions) -> None:
    room_id = await acts.world.create_room(
        ALICE, power_levels={"users": {ALICE: 100, BOB: 100, CAROL: 100}}
    )

    newer = await upgrade(acts, room_id, "12", BOB)
    newest = await upgrade(acts, newer, "12", DAVE)
    back = await upgrade(acts, newest, "11", BOB)

    assert (await acts.state(newer, "m.room.create"))["additional_creators"] == [BOB]
    levels = await acts.state(newer, "m.room.power_levels")
    assert levels["users"] == {CAROL: 100}
    assert levels["events"]["m.room.tombstone"] == 150
    assert (await acts.state(newest, "m.room.create"))["additional_creators"] == [DAVE]
    assert (await acts.state(newest, "m.room.power_levels"))["users"] == {BOB: 100, CAROL: 100}
    assert "additional_creators" not in await acts.state(back, "m.room.create")
    levels = await acts.state(back, "m.room.power_levels")
    assert levels["users"] == {ALICE: 100, BOB: 100, CAROL: 100, DAVE: 100}
    assert levels["events"]["m.room.tombstone"] == 100


async def test_space_keeps_type_and_children(acts: Actions) -> None:
    made = await acts.client().post(
        "/_matrix/client/v3/createRoom",
        {
            "creation_content": {"type": "m.space", "m.federate": False},
            "initial_state": [
                {"type": "m.space.child", "state_key": "!a:b", "content": {"via": [SERVER]}},
                {"type": "m.space.child", "state_key": "!gone:b", "content": {}},
            ],
        },
        token="alice",
    )

    replacement = await upgrade(acts, made.json["room_id"], "12")

    create = await acts.state(replacement, "m.room.create")
    assert (create["type"], create["m.federate"]) == ("m.space", False)
    current = await acts.world.states.current(replacement)
    assert ("m.space.child", "!a:b") in current
    assert ("m.space.child", "!gone:b") not in current


async def test_join_rule_unknown_to_the_new_version_becomes_invite(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, version="10", join_rule="knock_restricted")

    replacement = await upgrade(acts, room_id, "6")

    assert (await acts.state(replacement, "m.room.join_rules"))["join_rule"] == "invite"


async def test_upgrade_without_power_is_forbidden(acts: Actions) -> None:
    room_id = await acts.world.create_room(BOB, join=[ALICE])
    outside = await acts.world.create_room(BOB)

    for forbidden_id in (room_id, outside):
        with pytest.raises(Forbidden):
            await upgrade(acts, forbidden_id, "11")
    with pytest.raises(NotFound):
        await upgrade(acts, RoomID("!no:where.example"), "11")
    with pytest.raises(UnsupportedRoomVersion):
        await upgrade(acts, room_id, "nope")


async def test_upgrades_over_http(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    path = f"/_matrix/client/v3/rooms/{room_id}/upgrade"
    client = acts.client()

    done = await client.post(path, {"new_version": "12"}, token="alice")
    missing = await client.post(path, {}, token="alice")
    unknown = await client.post(path, {"new_version": "x"}, token="alice")
    with pytest.raises(InvalidParam):
        await upgrade(acts, room_id, "12", "nobody")

    assert list(done.json) == ["replacement_room"]
    assert missing.errcode == "M_MISSING_PARAM"
    assert unknown.errcode == "M_UNSUPPORTED_ROOM_VERSION"


async def test_settings_of_members_are_copied(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    tags = {"tags": {"u.pub": {"order": 0.5}}}
    for user_id in (ALICE, BOB, CAROL):
        await acts.set_account_data(user_id, room_id, "m.tag", tags)
        await mute(acts, room_id, user_id)
    direct: dict[str, Any] = {ALICE: ["!other:x", room_id], CAROL: ["!other:x"]}
    await acts.set_account_data(BOB, None, "m.direct", direct)

    replacement = await upgrade(acts, room_id, "11")
    for name in ("bob", "carol"):
        joiner = acts.tokens.requesters[name]
        await acts.services.members.joins.join(joiner, replacement, JoinRequest())

    assert await acts.account_data(ALICE, replacement, "m.tag") == tags
    assert await acts.account_data(BOB, replacement, "m.tag") == tags
    # Carol was not in the old room.
    assert await acts.account_data(CAROL, replacement, "m.tag") is None
    assert await acts.account_data(BOB, None, "m.direct") == {
        ALICE: ["!other:x", room_id, replacement],
        CAROL: ["!other:x"],
    }
    assert await muted_rooms(acts, ALICE) == {room_id, replacement}
    assert await muted_rooms(acts, BOB) == {room_id, replacement}
    assert await muted_rooms(acts, CAROL) == {room_id}


async def mute(acts: Actions, room_id: RoomID, user_id: UserID) -> None:
    """Set a push rule of a user for a room."""
    path = f"/_matrix/client/v3/pushrules/global/room/{room_id}"
    response = await acts.client().put(path, {"actions": []}, token=name_of(user_id))
    assert response.status == 200, response.json


async def muted_rooms(acts: Actions, user_id: UserID) -> set[str]:
    """Return the rooms for which a user has set a push rule."""
    path = "/_matrix/client/v3/pushrules/global/"
    rules = (await acts.client().get(path, token=name_of(user_id))).json
    return {rule["rule_id"] for rule in rules["room"]}


def name_of(user_id: UserID) -> str:
    return user_id[1:].partition(":")[0]


async def test_settings_of_the_new_room_are_not_overwritten(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    await acts.set_account_data(BOB, room_id, "m.tag", {"tags": {"u.old": {}}})
    replacement = await upgrade(acts, room_id, "11")
    await acts.set_account_data(BOB, replacement, "m.tag", {"tags": {"u.new": {}}})

    await acts.services.members.joins.join(
        acts.tokens.requesters["bob"], replacement, JoinRequest()
    )

    assert await acts.account_data(BOB, replacement, "m.tag") == {"tags": {"u.new": {}}}


@pytest.mark.parametrize("predecessor", [7, {}, {"room_id": 7}, {"room_id": "nonsense"}])
async def test_invalid_predecessor_is_ignored(acts: Actions, predecessor: Any) -> None:
    room_id = await acts.world.create_room(ALICE)
    create = await acts.world.states.current_event(room_id, "m.room.create")
    assert create is not None
    content = {**create.event.content, "predecessor": predecessor}

    assert predecessor_of(attrs.evolve(create.event, content=content)) is None


@pytest.mark.parametrize("version", ["1", "11"])
async def test_tombstone_and_create_event_name_each_other(acts: Actions, version: str) -> None:
    room_id = await acts.world.create_room(ALICE)

    replacement = await upgrade(acts, room_id, version)

    tombstone = await acts.world.states.current_event(room_id, "m.room.tombstone")
    assert tombstone is not None
    assert tombstone.event.content["replacement_room"] == replacement
    create = await acts.state(replacement, "m.room.create")
    assert create["predecessor"] == {"room_id": room_id, "event_id": tombstone.event_id}
    assert await acts.state(replacement, "m.room.guest_access") == {"guest_access": "forbidden"}


async def test_failed_creation_leaves_no_replacement(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    for size in range(65_000, 64_000, -50):
        with suppress(TooLarge):
            await acts.world.set_state(room_id, ALICE, "m.room.name", {"name": "x" * size})
            break

    with pytest.raises(TooLarge):
        # In version 1 the same event is larger, as it contains hashes of the events it cites.
        await upgrade(acts, room_id, "1")

    assert await acts.state(room_id, "m.room.tombstone") == {}


async def test_concurrent_change_of_power_levels_is_kept(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    given = {"users": {ALICE: 100, BOB: 70}}

    async def give() -> None:
        await acts.world.set_state(room_id, ALICE, "m.room.power_levels", given)

    upgrades = attrs.evolve(acts.upgrades, appender=InterferingAppender(acts.world.appender, give))
    await upgrades.upgrade(acts.tokens.requesters["alice"], room_id, "11")

    levels = await acts.state(room_id, "m.room.power_levels")
    assert levels["users"] == given["users"]
    assert levels["events_default"] == 50


@pytest.mark.parametrize("new", ["11", "12"])
async def test_concurrent_equal_upgrades_return_the_same_room(acts: Actions, new: str) -> None:
    room_id = await acts.world.create_room(ALICE)
    new_rooms: list[RoomID] = []

    async def request() -> None:
        new_rooms.append(await upgrade(acts, room_id, new))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(request)

    assert len(new_rooms) == 3
    assert len(set(new_rooms)) == 1
    tombstone = await acts.state(room_id, "m.room.tombstone")
    assert tombstone["replacement_room"] == new_rooms[0]
