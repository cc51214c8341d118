"""Tests of sliding sync: lists, ranges, subscriptions and connections."""

from typing import Any

import pytest

from hs.core.errors import InvalidParam, MatrixError
from hs.lib.caching.lru_cache import LruCache
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.composition import Neighbourhood
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import (
    bodies,
    busy_rooms,
    open_sliding,
    open_two,
    window,
)
from tests.support.syncing import forget, main_and_reader


async def test_range_contains_most_recently_active_rooms(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 4)

        response = await s.sync(ALICE, lists=window([0, 1], limit=1))

        assert response["lists"] == {"all": {"count": 4}}
        assert set(response["rooms"]) == {rooms[3], rooms[2]}
        assert bodies(response["rooms"][rooms[3]]) == ["m3"]
        assert response["rooms"][rooms[3]]["initial"] is True
        assert response["rooms"][rooms[3]]["limited"] is True
        assert response["rooms"][rooms[3]]["num_live"] == 0
        assert response["rooms"][rooms[3]]["bump_stamp"] > response["rooms"][rooms[2]]["bump_stamp"]


async def test_room_with_activity_moves_to_the_front_and_pushes_another_out(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 5)
        lists = {**window([0, 1], limit=1), "rest": window([2, 4], limit=1)["all"]}
        pos = (await s.sync(ALICE, lists=lists))["pos"]

        seen = []
        for room_id in (rooms[0], rooms[2], rooms[0], rooms[1]):
            await s.world.send(room_id, ALICE, "news")
            response = await s.sync(ALICE, pos, lists=lists, extensions={})
            pos = response["pos"]
            seen.append(set(response["rooms"]))
        shown = await s.sync(ALICE, lists=window([0, 1], limit=1), conn_id="new")

        assert seen == [{rooms[0]}, {rooms[2]}, {rooms[0]}, {rooms[1]}]
        assert set(shown["rooms"]) == {rooms[1], rooms[0]}


async def test_extended_range_sends_only_new_rooms(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 5)
        first = await s.sync(ALICE, lists=window([0, 1]))

        second = await s.sync(ALICE, first["pos"], lists=window([0, 3]))
        third = await s.sync(ALICE, second["pos"], lists=window([0, 99]))

        assert set(second["rooms"]) == {rooms[2], rooms[1]}
        assert set(third["rooms"]) == {rooms[0]}


async def test_repeated_pos_sends_same_rooms_again(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 3)
        first = await s.sync(ALICE, lists=window([0, 0]))
        grown = await s.sync(ALICE, first["pos"], lists=window([0, 2]))
        await s.world.send(rooms[2], ALICE, "news")

        again = await s.sync(ALICE, first["pos"], lists=window([0, 2]))

        assert set(grown["rooms"]) == {rooms[0], rooms[1]}
        assert set(again["rooms"]) == set(rooms)
        assert bodies(again["rooms"][rooms[2]]) == ["news"]
        assert "initial" not in again["rooms"][rooms[2]]


async def test_pos_two_responses_back_is_unknown_after_restart(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 3)
        first = await s.sync(ALICE, lists=window([0, 0]))
        second = await s.sync(ALICE, first["pos"], lists=window([0, 1]))
        third = await s.sync(ALICE, second["pos"], lists=window([0, 2]))
        third_again = await s.sync(ALICE, third["pos"], lists=window([0, 2]))
        assert third_again["rooms"] == {}

    async with open_sliding(database) as s:
        assert (await s.sync(ALICE, third["pos"]))["rooms"] == {}
        assert len((await s.sync(ALICE, second["pos"]))["rooms"]) == 1
        with pytest.raises(MatrixError) as failed:
            await s.sync(ALICE, first["pos"])
        assert (failed.value.errcode, failed.value.status) == ("M_UNKNOWN_POS", 400)


@pytest.mark.parametrize("pos", ["", "7", "s1_2", "s1_0_.0_.0_0_0_0_0_c0", "s1_c99", "s\u0661_c1"])
async def test_invalid_pos_is_unknown(database: Database, pos: str) -> None:
    async with open_sliding(database) as s:
        with pytest.raises(MatrixError) as failed:
            await s.sync(ALICE, pos or "-")
        assert failed.value.errcode == "M_UNKNOWN_POS"


async def test_pos_of_another_connection_is_unknown(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 1)
        pos = (await s.sync(ALICE, conn_id="one"))["pos"]

        assert (await s.sync(ALICE, pos, conn_id="one"))["rooms"] == {}
        for conn_id, device_id in (("two", "DEVICE"), ("one", "OTHER")):
            with pytest.raises(MatrixError):
                await s.sync(ALICE, pos, conn_id=conn_id, device_id=device_id)


async def test_any_process_answers_pos(database: Database) -> None:
    async with open_two(database) as (first_process, second_process):
        rooms = await busy_rooms(first_process.world, ALICE, 3)
        first = await first_process.sync(ALICE, lists=window([0, 1], limit=1))
        await first_process.world.send(rooms[2], ALICE, "news")

        second = await second_process.sync(ALICE, first["pos"], lists=window([0, 1], limit=1))
        await first_process.world.send(rooms[0], ALICE, "more")
        third = await first_process.sync(ALICE, second["pos"], lists=window([0, 1], limit=1))
        fourth = await second_process.sync(ALICE, third["pos"], lists=window([0, 1], limit=1))

        assert {room_id: bodies(room) for room_id, room in second["rooms"].items()} == {
            rooms[2]: ["news"]
        }
        assert set(third["rooms"]) == {rooms[0]}
        assert fourth["rooms"] == {}


async def test_restart_loses_and_repeats_nothing(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 3)
        first = await s.sync(ALICE)
        await s.world.send(rooms[1], ALICE, "before")

    async with open_sliding(database) as s:
        await s.world.send(rooms[1], ALICE, "after")
        second = await s.sync(ALICE, first["pos"])
        third = await s.sync(ALICE, second["pos"])

        assert {room_id: bodies(room) for room_id, room in second["rooms"].items()} == {
            rooms[1]: ["before", "after"]
        }
        assert second["rooms"][rooms[1]]["num_live"] == 2
        assert third["rooms"] == {}


async def test_room_returns_to_range_with_missed_events(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 2)
        lists = window([0, 0])
        first = await s.sync(ALICE, lists=lists)
        await s.world.send(rooms[0], ALICE, "up")
        second = await s.sync(ALICE, first["pos"], lists=lists)
        await s.world.set_state(rooms[1], ALICE, "m.room.topic", {"topic": "quiet"})
        third = await s.sync(ALICE, second["pos"], lists=lists)
        await s.world.send(rooms[1], ALICE, "back")

        fourth = await s.sync(ALICE, third["pos"], lists=lists)

        assert set(second["rooms"]) == {rooms[0]}
        assert third["rooms"] == {}
        room = fourth["rooms"][rooms[1]]
        assert [event["type"] for event in room["timeline"]] == ["m.room.topic", "m.room.message"]
        assert (room["num_live"], "initial" in room, room["limited"]) == (1, False, False)


async def test_newly_joined_room_is_sent(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 1)
        first = await s.sync(ALICE)
        room_id = await s.world.create_room(BOB)
        await s.world.join(room_id, ALICE)

        second = await s.sync(ALICE, first["pos"])

        assert second["lists"]["all"]["count"] == 2
        assert second["rooms"][room_id]["initial"] is True
        assert (await s.sync(ALICE, second["pos"]))["rooms"] == {}


async def test_leave_is_sent_even_if_room_was_forgotten(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(BOB, join=[ALICE])
        first = await s.sync(ALICE)
        await s.world.leave(room_id, ALICE)
        await forget(s.world, room_id, ALICE)

        second = await s.sync(ALICE, first["pos"])

        [leave] = second["rooms"][room_id]["timeline"]
        assert leave["content"]["membership"] == "leave"
        assert (await s.sync(ALICE, second["pos"]))["rooms"] == {}
        assert (await s.sync(ALICE))["rooms"] == {}


async def test_leave_is_sent_once_and_only_for_rooms_sent_before(database: Database) -> None:
    async with open_sliding(database) as s:
        joined, left = await busy_rooms(s.world, BOB, 2)
        await s.world.join(joined, ALICE)
        await s.world.join(left, ALICE)
        await s.world.leave(left, ALICE)
        first = await s.sync(ALICE)
        await s.world.leave(joined, ALICE)
        await s.world.send(joined, BOB, "unseen")

        second = await s.sync(ALICE, first["pos"], lists=window(state=[["m.room.member", "$ME"]]))
        third = await s.sync(ALICE, second["pos"])

        assert set(first["rooms"]) == {joined}
        room = second["rooms"][joined]
        assert [event["content"]["membership"] for event in room["timeline"]] == ["leave"]
        assert room["required_state"][0]["content"]["membership"] == "leave"
        assert third["rooms"] == {}
        assert third["lists"]["all"]["count"] == 0


async def test_removal_from_room_is_sent_in_initial_response(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = (await busy_rooms(s.world, BOB, 1))[0]
        never_joined = await s.world.create_room(BOB)
        await s.world.join(room_id, ALICE)
        await s.world.set_membership(room_id, BOB, ALICE, "ban")
        await s.world.set_membership(never_joined, BOB, ALICE, "ban")
        await s.world.set_state(room_id, BOB, "m.room.name", {"name": "secret"})

        response = await s.sync(ALICE, lists=window(state=[["*", "*"]]))

        assert set(response["rooms"]) == {room_id}
        room = response["rooms"][room_id]
        assert room["timeline"][-1]["content"]["membership"] == "ban"
        assert "name" not in room
        assert all(event["type"] != "m.room.name" for event in room["required_state"])


async def test_invite_has_stripped_state_until_it_is_accepted(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(BOB, join_rule="invite")
        await s.world.set_state(room_id, BOB, "m.room.name", {"name": "Den"})
        first = await s.sync(ALICE)
        await s.world.set_membership(room_id, BOB, ALICE, "invite")
        await s.world.send(room_id, BOB, "unseen")

        second = await s.sync(ALICE, first["pos"])
        third = await s.sync(ALICE, second["pos"])
        await s.world.join(room_id, ALICE)
        fourth = await s.sync(ALICE, third["pos"])

        invite = second["rooms"][room_id]
        assert {event["type"] for event in invite["invite_state"]} >= {
            "m.room.create",
            "m.room.name",
            "m.room.join_rules",
        }
        assert invite["invite_state"][-1]["state_key"] == ALICE
        assert "timeline" not in invite
        assert third["rooms"] == {}
        assert fourth["rooms"][room_id]["initial"] is True
        assert fourth["rooms"][room_id]["name"] == "Den"
        assert "invite_state" not in fourth["rooms"][room_id]


async def test_rejected_invite_is_sent(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(BOB, invite=[ALICE])
        first = await s.sync(ALICE)
        await s.world.send(room_id, BOB, "unseen")
        await s.world.leave(room_id, ALICE)

        second = await s.sync(ALICE, first["pos"])

        assert [event["content"] for event in second["rooms"][room_id]["timeline"]] == [
            {"membership": "leave"}
        ]
        assert (await s.sync(ALICE, second["pos"]))["rooms"] == {}


async def test_filters_select_matching_rooms(database: Database) -> None:
    async with open_sliding(database) as s:
        encryption = Draft("m.room.encryption", ALICE, {"algorithm": "x"}, "")
        plain, secret = await s.world.create_room(), await s.world.create_room(state=[encryption])
        space = (await s.world.appender.create("11", _space()))[0].room_id
        await s.world.set_state(space, ALICE, "m.space.child", {"via": ["a"]}, plain)
        await s.world.set_state(space, ALICE, "m.space.child", {}, secret)
        invited = await s.world.create_room(BOB, invite=[ALICE])
        await s.set_account_data(ALICE, "m.direct", {BOB: [secret]})
        await s.set_account_data(ALICE, "m.tag", {"tags": {"m.favourite": {}}}, plain)

        async def matching(**filters: object) -> set[str]:
            return set((await s.sync(ALICE, lists=window(filters=filters)))["rooms"])

        assert await matching(is_dm=True) == {secret}
        assert await matching(is_dm=False) == {plain, space, invited}
        assert await matching(is_encrypted=True) == {secret}
        assert await matching(is_invite=True) == {invited}
        assert await matching(is_invite=False) == {plain, secret, space}
        assert await matching(room_types=["m.space"]) == {space}
        assert await matching(room_types=[None], is_invite=False) == {plain, secret}
        assert await matching(not_room_types=["m.space"]) == {plain, secret, invited}
        assert await matching(spaces=[space]) == {plain}
        assert await matching(tags=["m.favourite"]) == {plain}
        assert await matching(not_tags=["m.favourite"]) == {secret, space, invited}


def _space() -> list[Draft]:
    return [
        Draft("m.room.create", ALICE, {"type": "m.space"}, ""),
        Draft("m.room.member", ALICE, {"membership": "join"}, ALICE),
        Draft("m.room.power_levels", ALICE, {"users": {ALICE: 100}}, ""),
    ]


async def test_room_enters_list_when_it_matches_filter(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room()
        encrypted = window(filters={"is_encrypted": True})
        first = await s.sync(ALICE, lists=encrypted)
        await s.world.set_state(room_id, ALICE, "m.room.encryption", {"algorithm": "x"})

        second = await s.sync(ALICE, first["pos"], lists=encrypted)
        await s.set_account_data(ALICE, "m.direct", {BOB: [room_id]})
        third = await s.sync(ALICE, second["pos"], lists=encrypted)

        assert (first["lists"]["all"]["count"], first["rooms"]) == (0, {})
        assert set(second["rooms"]) == {room_id}
        assert third["rooms"][room_id]["is_dm"] is True


async def test_subscribed_room_outside_of_ranges_is_sent(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 2)
        foreign = await s.world.create_room(BOB)
        subscriptions = {
            room_id: {"timeline_limit": 1, "required_state": []} for room_id in (rooms[0], foreign)
        }

        response = await s.sync(ALICE, lists={}, room_subscriptions=subscriptions)
        await s.world.send(rooms[1], ALICE, "elsewhere")
        await s.world.send(rooms[0], ALICE, "here")
        second = await s.sync(ALICE, response["pos"], lists={}, room_subscriptions=subscriptions)

        assert set(response["rooms"]) == {rooms[0]}
        assert {room_id: bodies(room) for room_id, room in second["rooms"].items()} == {
            rooms[0]: ["here"]
        }


async def test_invalid_parameters_are_rejected(database: Database) -> None:
    async with open_sliding(database) as s:
        for lists in (window([3, 1]), window([-1, 4]), window(limit=-1)):
            with pytest.raises(InvalidParam):
                await s.sync(CAROL, lists=lists)
        with pytest.raises(InvalidParam):
            await s.sync(CAROL, lists={str(n): {} for n in range(101)})


async def test_new_connection_replaces_oldest_of_device(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 1)
        positions = [(await s.sync(ALICE, conn_id=f"c{n}"))["pos"] for n in range(17)]

    async with open_sliding(database) as s:
        assert (await s.sync(ALICE, positions[-1], conn_id="c16"))["rooms"] == {}
        with pytest.raises(MatrixError):
            await s.sync(ALICE, positions[0], conn_id="c0")


async def test_replaced_connection_is_stored_completely_when_it_returns(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 40)
        positions = [(await s.sync(ALICE, conn_id=f"c{n}"))["pos"] for n in range(17)]
        [new_room] = await busy_rooms(s.world, ALICE, 1)

        later = await s.sync(ALICE, positions[0], conn_id="c0")

        assert list(later["rooms"]) == [new_room]

    async with open_sliding(database) as s:
        await s.world.send(rooms[1], ALICE, "more")
        response = await s.sync(ALICE, later["pos"], conn_id="c0")
        assert list(response["rooms"]) == [rooms[1]]
        assert "initial" not in response["rooms"][rooms[1]]
        with pytest.raises(MatrixError):
            await s.sync(ALICE, positions[1], conn_id="c1")


async def test_unused_connection_expires(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 40)
        pos = (await s.sync(ALICE))["pos"]
        s.world.clock.advance(31 * 24 * 3600 * 1000)
        await s.process.run_duty("sliding sync connection cleanup")

    async with open_sliding(database) as s:
        with pytest.raises(MatrixError):
            await s.sync(ALICE, pos)


async def test_counts_of_room_read_out_of_range_are_sent_when_it_returns(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        quiet, busy = await busy_rooms(s.world, ALICE, 2)
        await s.world.join(quiet, BOB)
        read = await s.world.send(quiet, BOB, "read elsewhere")
        await s.world.send(busy, ALICE, "later")
        first = await s.sync(ALICE, lists=window([0, 1]))
        assert first["rooms"][quiet]["notification_count"] == 1
        second = await s.sync(ALICE, first["pos"], lists=window([0, 0]))
        await s.read_up_to(quiet, ALICE, read.event_id, "m.read.private")
        third = await s.sync(ALICE, second["pos"], lists=window([0, 0]))

        fourth = await s.sync(ALICE, third["pos"], lists=window([0, 1]))

        assert fourth["rooms"][quiet]["notification_count"] == 0
        assert (await s.sync(ALICE, fourth["pos"], lists=window([0, 1])))["rooms"] == {}


async def test_counts_after_reading_are_sent_after_restart(database: Database) -> None:
    async with open_sliding(database) as s:
        read_room, other_room = await busy_rooms(s.world, ALICE, 2)
        await s.world.join(read_room, BOB)
        await s.world.join(other_room, BOB)
        read = await s.world.send(read_room, BOB)
        other = await s.world.send(other_room, ALICE)
        first = await s.sync(ALICE)
        assert first["rooms"][read_room]["notification_count"] == 1
        await s.read_up_to(read_room, ALICE, read.event_id)
        await s.read_up_to(other_room, BOB, other.event_id)

    async with open_sliding(database) as s:
        second = await s.sync(ALICE, first["pos"])

        assert set(second["rooms"]) == {read_room}
        assert second["rooms"][read_room]["notification_count"] == 0


async def test_end_of_typing_is_sent_after_restart(database: Database) -> None:
    neighbours, (main, reader) = Neighbourhood(), main_and_reader()
    typing: dict[str, Any] = {"extensions": {"typing": {"enabled": True}}}
    async with open_sliding(database, main, neighbours=neighbours) as s:
        room_id, _ = await busy_rooms(s.world, ALICE, 2)
        [foreign_room] = await busy_rooms(s.world, BOB, 1)
        await s.set_typing(room_id, ALICE)
        first = await s.sync(ALICE, **typing)
        await s.set_typing(foreign_room, BOB)
        await s.set_typing(foreign_room)
        async with open_sliding(database, reader, neighbours=neighbours) as restarted:
            await s.set_typing(room_id)
            second = await restarted.sync(ALICE, first["pos"], **typing)

        [(sent_room_id, event)] = second["extensions"]["typing"]["rooms"].items()
        assert (sent_room_id, event["content"]) == (room_id, {"user_ids": []})


@pytest.mark.parametrize(
    "lists",
    [
        {f"l{n}": window(state=[[f"m.{n}.{k}", ""] for k in range(100)])["all"] for n in range(9)},
        {f"l{n}": window(state=[["m.x", ""]] * 500)["all"] for n in range(50)},
        window(*[[0, 9]] * 101),
        window(filters={"spaces": ["!a:test"] * 101}),
        window(filters={"not_tags": ["u.a"] * 101}),
    ],
)
async def test_lists_with_too_many_patterns_ranges_or_values_are_rejected(
    database: Database, lists: dict[str, Any]
) -> None:
    async with open_sliding(database) as s:
        with pytest.raises(InvalidParam, match="must not have more than"):
            await s.sync(ALICE, lists=lists)


async def test_connections_with_many_patterns_weigh_more_in_the_caches(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 3)
        sliding = s.services.sync.sliding
        caches: list[LruCache[Any, Any]] = [sliding.lists.cache, sliding.connections.cache]
        weights = []

        for conn_id, count in (("few", 1), ("many", 500)):
            before = [cache.weight for cache in caches]
            state = [[f"m.{n}", ""] for n in range(count)]
            await s.sync(ALICE, lists=window(state=state), conn_id=conn_id)
            weights.append(
                [cache.weight - weight for cache, weight in zip(caches, before, strict=True)]
            )

        assert all(more - less >= 500 * 100 for less, more in zip(*weights, strict=True))
