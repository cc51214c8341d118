"""Tests of sliding sync: the content of each room, initially and after changes."""

from typing import Any

import pytest

from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, member, message
from tests.support.sliding import bodies, keys, open_sliding, window
from tests.support.syncing import mention

LAZY = [["m.room.member", "$LAZY"]]


async def test_new_room_has_required_state(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB], invite=[CAROL])
        await s.world.set_state(room_id, ALICE, "m.room.name", {"name": "Den"})
        await s.world.set_state(room_id, ALICE, "m.room.avatar", {"url": "mxc://a/b"})
        await s.world.set_state(room_id, ALICE, "org.x", {}, "1")
        await s.world.set_state(room_id, ALICE, "org.x", {}, "2")
        required_state = [
            ["m.room.create", ""],
            ["org.x", "*"],
            ["m.room.member", "$ME"],
            ["*", "2"],
        ]

        room = (await s.sync(ALICE, lists=window(state=required_state)))["rooms"][room_id]

        assert keys(room) == {
            ("m.room.create", ""),
            ("org.x", "1"),
            ("org.x", "2"),
            ("m.room.member", ALICE),
        }
        assert (room["name"], room["avatar"]) == ("Den", "mxc://a/b")
        assert (room["joined_count"], room["invited_count"]) == (2, 1)
        assert (room["notification_count"], room["highlight_count"]) == (0, 0)
        assert room["limited"] is False
        assert "heroes" not in room
        assert "room_id" not in room["timeline"][0]


async def test_room_without_name_has_heroes(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        await s.world.append(room_id, member(BOB, "join", displayname="Bob", avatar_url="mxc://b"))
        first = await s.sync(ALICE)
        await s.world.join(room_id, CAROL)
        second = await s.sync(ALICE, first["pos"])
        await s.world.set_state(room_id, ALICE, "m.room.name", {"name": "Den"})
        third = await s.sync(ALICE, second["pos"])
        await s.world.set_state(room_id, ALICE, "m.room.name", {})
        fourth = await s.sync(ALICE, third["pos"])

        bob = {"user_id": BOB, "displayname": "Bob", "avatar_url": "mxc://b"}
        assert first["rooms"][room_id]["heroes"] == [bob]
        assert second["rooms"][room_id]["heroes"] == [bob, {"user_id": CAROL}]
        assert second["rooms"][room_id]["joined_count"] == 3
        assert third["rooms"][room_id]["name"] == "Den"
        assert "joined_count" not in third["rooms"][room_id]
        assert fourth["rooms"][room_id]["name"] is None
        assert len(fourth["rooms"][room_id]["heroes"]) == 2


async def test_state_is_sent_again_only_if_it_changes(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        lists = window(state=[["m.room.topic", ""], ["m.room.create", ""]])
        first = await s.sync(ALICE, lists=lists)
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "new"})
        await s.world.set_state(room_id, ALICE, "org.x", {})

        second = await s.sync(ALICE, first["pos"], lists=lists)

        room = second["rooms"][room_id]
        assert keys(room) == {("m.room.topic", "")}
        assert [event["type"] for event in room["timeline"]] == ["m.room.topic", "org.x"]
        assert (room["num_live"], "initial" in room, "name" in room) == (2, False, False)


async def test_lazy_members_are_sent_once_when_timeline_needs_them(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL])
        await s.world.send(room_id, BOB, "one")
        lists = window(state=LAZY, limit=1)
        first = await s.sync(ALICE, lists=lists)
        await s.world.send(room_id, BOB, "two")
        second = await s.sync(ALICE, first["pos"], lists=lists)
        await s.world.send(room_id, CAROL, "three")
        third = await s.sync(ALICE, second["pos"], lists=lists)
        await s.world.append(room_id, member(BOB, "join", displayname="Bobby"))
        fourth = await s.sync(ALICE, third["pos"], lists=lists)

        assert keys(first["rooms"][room_id]) == {("m.room.member", BOB)}
        assert keys(second["rooms"][room_id]) == set()
        assert keys(third["rooms"][room_id]) == {("m.room.member", CAROL)}
        assert fourth["rooms"][room_id]["required_state"][0]["content"]["displayname"] == "Bobby"


async def test_member_changed_in_gap_is_sent_when_needed_again(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        lists = window(state=LAZY, limit=1)
        await s.world.send(room_id, BOB, "one")
        first = await s.sync(ALICE, lists=lists)
        await s.world.append(room_id, member(BOB, "join", displayname="Bobby"))
        await s.world.append(room_id, message(ALICE), message(ALICE, "last"))
        second = await s.sync(ALICE, first["pos"], lists=lists)
        await s.world.send(room_id, BOB, "two")
        third = await s.sync(ALICE, second["pos"], lists=lists)

        assert second["rooms"][room_id]["limited"] is True
        assert keys(second["rooms"][room_id]) == {("m.room.member", ALICE)}
        assert keys(third["rooms"][room_id]) == {("m.room.member", BOB)}


@pytest.mark.parametrize("restart", [False, True])
async def test_gap_is_limited_and_has_changed_state(database: Database, restart: bool) -> None:
    lists = window(state=[["m.room.topic", ""], ["m.room.member", "*"]], limit=2)
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        first = await s.sync(ALICE, lists=lists)
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "new"})
        await s.world.join(room_id, BOB)
        await s.world.append(room_id, *(message(ALICE, f"m{n}") for n in range(4)))
        second = await s.sync(ALICE, first["pos"], lists=lists)
    if restart:
        async with open_sliding(database) as s:
            second = await s.sync(ALICE, first["pos"], lists=lists)

    room = second["rooms"][room_id]
    assert bodies(room) == ["m2", "m3"]
    assert room["limited"] is True
    assert keys(room) == {("m.room.topic", ""), ("m.room.member", BOB)}
    assert room["joined_count"] == 2


async def test_added_state_patterns_send_state_once(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        few = window(state=[["m.room.create", ""]])
        many = window(state=[["m.room.create", ""], ["m.room.join_rules", ""]])
        first = await s.sync(ALICE, lists=few)
        second = await s.sync(ALICE, first["pos"], lists=many)
        third = await s.sync(ALICE, second["pos"], lists=few)
        fourth = await s.sync(ALICE, third["pos"], lists=many)
        await s.world.set_state(room_id, ALICE, "m.room.join_rules", {"join_rule": "invite"})
        fifth = await s.sync(ALICE, fourth["pos"], lists=few)
        sixth = await s.sync(ALICE, fifth["pos"], lists=many)

        assert keys(second["rooms"][room_id]) == {("m.room.join_rules", "")}
        assert "timeline" not in second["rooms"][room_id]
        assert third["rooms"] == fourth["rooms"] == {}
        assert keys(fifth["rooms"][room_id]) == set()
        assert keys(sixth["rooms"][room_id]) == {("m.room.join_rules", "")}


async def test_higher_timeline_limit_expands_timeline(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        await s.world.append(room_id, *(message(ALICE, f"m{n}") for n in range(5)))
        first = await s.sync(ALICE, lists=window(limit=1))
        second = await s.sync(ALICE, first["pos"], lists=window(limit=3))
        third = await s.sync(ALICE, second["pos"], lists=window(limit=1))
        fourth = await s.sync(ALICE, third["pos"], lists=window(limit=3))
        await s.world.append(room_id, message(ALICE, "x"), message(ALICE, "y"))
        fifth = await s.sync(ALICE, fourth["pos"], lists=window(limit=1))
        sixth = await s.sync(ALICE, fifth["pos"], lists=window(limit=3))

        room = second["rooms"][room_id]
        assert bodies(room) == ["m2", "m3", "m4"]
        assert (room["unstable_expanded_timeline"], room["num_live"]) == (True, 0)
        assert "initial" not in room
        assert third["rooms"] == fourth["rooms"] == {}
        assert (bodies(fifth["rooms"][room_id]), fifth["rooms"][room_id]["limited"]) == (
            ["y"],
            True,
        )
        assert bodies(sixth["rooms"][room_id]) == ["m4", "x", "y"]


async def test_parameters_of_list_and_subscription_are_combined(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        subscriptions: dict[str, Any] = {
            room_id: {"timeline_limit": 2, "required_state": [["m.room.create", ""]]}
        }

        response = await s.sync(
            ALICE,
            lists=window(state=[["m.room.join_rules", ""]], limit=1),
            room_subscriptions=subscriptions,
        )

        room = response["rooms"][room_id]
        assert keys(room) == {("m.room.create", ""), ("m.room.join_rules", "")}
        assert len(room["timeline"]) == 2


async def test_wildcard_with_lazy_members_omits_other_members(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.send(room_id, ALICE)

        response = await s.sync(ALICE, lists=window(state=[["*", "*"], *LAZY], limit=1))

        assert keys(response["rooms"][room_id]) == {
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", ALICE),
        }


async def test_invisible_history_is_omitted(database: Database) -> None:
    async with open_sliding(database) as s:
        closed = Draft("m.room.history_visibility", BOB, {"history_visibility": "joined"}, "")
        room_id = await s.world.create_room(BOB, state=[closed])
        await s.world.send(room_id, BOB, "secret")
        await s.world.join(room_id, ALICE)
        await s.world.send(room_id, BOB, "open")

        room = (await s.sync(ALICE))["rooms"][room_id]

        assert bodies(room) == ["open"]
        assert room["timeline"][-2]["content"]["membership"] == "join"


async def test_messages_of_ignored_users_are_omitted(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.reading.ignore(ALICE, BOB)
        room_id = await s.world.create_room(ALICE, join=[BOB])
        first = await s.sync(ALICE)
        await s.world.send(room_id, BOB, "noise")

        assert (await s.sync(ALICE, first["pos"]))["rooms"] == {}


async def test_counts_are_sent_again_after_own_receipt(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        first = await s.sync(ALICE)
        _, sent = await s.world.append(room_id, message(BOB), mention(BOB, ALICE))
        second = await s.sync(ALICE, first["pos"])
        await s.read_up_to(room_id, ALICE, sent.event_id, "m.read.private")
        third = await s.sync(ALICE, second["pos"])

        room = second["rooms"][room_id]
        assert (room["notification_count"], room["highlight_count"]) == (2, 1)
        assert third["rooms"][room_id]["notification_count"] == 0
        assert "timeline" not in third["rooms"][room_id]


async def test_prev_batch_is_topological_token(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        await s.world.append(room_id, *(message(ALICE, f"m{n}") for n in range(3)))

        room = (await s.sync(ALICE, lists=window(limit=1)))["rooms"][room_id]

        assert bodies(room) == ["m2"]
        assert room["prev_batch"].startswith("t")


async def test_state_between_leave_and_ban_is_not_sent(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        lists = window(state=[["*", "*"]], timeline=20)
        first = await s.sync(BOB, lists=lists)
        await s.world.leave(room_id, BOB)
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "secret"})
        await s.world.set_state(room_id, ALICE, "m.room.name", {"name": "secret"})
        await s.world.set_membership(room_id, ALICE, BOB, "ban")

        for response in (await s.sync(BOB, first["pos"]), await s.sync(BOB, lists=lists)):
            assert "secret" not in str(response)
            assert room_id in response["rooms"]
