"""Joined rooms in /sync: timelines, state and gaps."""

from typing import Any

import pytest

from hs.core.ids import EventID
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, member, message, txn_key
from tests.support.syncing import Syncing, bodies, keys, news, open_syncing

LAZY = {"room": {"state": {"lazy_load_members": True}}}


def limit(count: int, **more: Any) -> dict[str, Any]:
    return {"room": {"timeline": {"limit": count}, **more}}


async def test_first_sync_has_the_end_of_the_timeline_and_the_state_before_it(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        for n in range(5):
            await s.world.send(room_id, BOB, f"m{n}")

        answer = await s.sync(ALICE, filter=limit(3))

        room = answer["rooms"]["join"][room_id]
        assert bodies(room) == ["m2", "m3", "m4"]
        assert room["timeline"]["limited"] is True
        assert keys(room["state"]["events"]) == {
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", ALICE),
            ("m.room.member", BOB),
        }
        assert "room_id" not in room["timeline"]["events"][0]


async def test_state_events_in_the_timeline_are_not_in_the_state_before_it(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)

        room = (await s.sync(ALICE))["rooms"]["join"][room_id]

        assert len(room["timeline"]["events"]) == 4
        assert room["timeline"]["limited"] is False
        assert room["state"]["events"] == []


async def test_sync_without_changes_is_empty(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        first = await s.sync(ALICE)

        second = await s.sync(ALICE, first["next_batch"])

        assert (second["next_batch"], news(second)) == (first["next_batch"], {})
        await s.world.send(room_id, ALICE, "later")
        third = await s.sync(ALICE, second["next_batch"])
        assert bodies(third["rooms"]["join"][room_id]) == ["later"]
        assert third["rooms"]["join"][room_id]["timeline"]["limited"] is False


async def test_only_rooms_with_changes_are_in_the_response(database: Database) -> None:
    async with open_syncing(database) as s:
        quiet = await s.world.create_room(ALICE)
        loud = await s.world.create_room(ALICE)
        foreign = await s.world.create_room(BOB)
        since = (await s.sync(ALICE))["next_batch"]
        await s.world.send(loud, ALICE)
        await s.world.send(foreign, BOB)

        answer = await s.sync(ALICE, since)

        assert list(answer["rooms"]["join"]) == [loud]
        assert quiet not in answer["rooms"]["join"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_limited_timeline_comes_with_the_state_that_changed_in_the_gap(
    database: Database, restarted: bool
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE))["next_batch"]
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "old"})
        await s.world.set_state(room_id, ALICE, "m.room.name", {"name": "gap"})
        for n in range(3):
            await s.world.send(room_id, BOB, f"m{n}")
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "new"})
        if not restarted:
            check_gap(await s.sync(ALICE, since, filter=limit(3)), room_id)
    if restarted:
        clock = s.world.clock
        clock.advance(1000)
        async with open_syncing(database, clock=clock) as s:
            check_gap(await s.sync(ALICE, since, filter=limit(3)), room_id)


def check_gap(answer: dict[str, Any], room_id: str) -> None:
    room = answer["rooms"]["join"][room_id]
    assert room["timeline"]["limited"] is True
    assert bodies(room) == ["m1", "m2"]
    state = {event["type"]: event["content"] for event in room["state"]["events"]}
    assert state == {"m.room.topic": {"topic": "old"}, "m.room.name": {"name": "gap"}}


@pytest.mark.parametrize("name", ["state_after", "org.matrix.msc4222.state_after"])
async def test_state_after_is_the_state_at_the_end_of_the_timeline(
    database: Database, name: str
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        first = await s.sync(ALICE, state_after=name)
        whole = first["rooms"]["join"][room_id]
        assert "state" not in whole
        assert ("m.room.create", "") in keys(whole[name]["events"])
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "new"})
        await s.world.send(room_id, ALICE)

        second = await s.sync(ALICE, first["next_batch"], state_after=name)

        room = second["rooms"]["join"][room_id]
        assert keys(room[name]["events"]) == {("m.room.topic", "")}
        assert len(room["timeline"]["events"]) == 2
        third = await s.sync(ALICE, first["next_batch"], state_after=name, filter=limit(1))
        assert keys(third["rooms"]["join"][room_id][name]["events"]) == {("m.room.topic", "")}


async def test_full_state_has_all_rooms_with_the_timeline_since(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        quiet = await s.world.create_room(ALICE)
        loud = await s.world.create_room(ALICE)
        since = (await s.sync(ALICE))["next_batch"]
        await s.world.send(loud, ALICE, "news")

        answer = await s.sync(ALICE, since, full_state=True, timeout_ms=100_000)

        rooms = answer["rooms"]["join"]
        assert bodies(rooms[loud]) == ["news"]
        assert rooms[quiet]["timeline"]["events"] == []
        assert all(len(rooms[room_id]["state"]["events"]) == 4 for room_id in (quiet, loud))


async def test_state_of_filtered_events_is_in_the_state_section(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE))["next_batch"]
        await s.world.send(room_id, ALICE, "hers")
        await s.world.send(room_id, BOB, "his")
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "t"})
        narrow = {"room": {"timeline": {"types": ["m.room.message"], "not_senders": [ALICE]}}}

        room = (await s.sync(ALICE, since, filter=narrow))["rooms"]["join"][room_id]

        assert bodies(room) == ["his"]
        assert room["timeline"]["limited"] is False
        # The event is not in the timeline, so it must be in the state.
        assert keys(room["state"]["events"]) == {("m.room.topic", "")}
        nothing = await s.sync(ALICE, since, filter={"room": {"rooms": []}})
        assert "rooms" not in nothing


async def test_first_sync_finds_matching_events_far_back(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        await s.world.append(room_id, message(ALICE, "far"))
        for n in range(3):
            noise = [Draft("x.noise", ALICE, {"n": i + n * 100}) for i in range(100)]
            await s.world.append(room_id, *noise)
        messages = {"room": {"timeline": {"types": ["m.room.message"]}}}

        room = (await s.sync(ALICE, filter=messages))["rooms"]["join"][room_id]

        assert bodies(room) == ["far"]


async def test_members_are_loaded_lazily_and_once(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(
            ALICE, join=[BOB, CAROL], state=[Draft("m.room.name", ALICE, {"name": "n"}, "")]
        )
        for _ in range(10):
            await s.world.send(room_id, BOB)

        first = await s.sync(ALICE, filter=LAZY)

        room = first["rooms"]["join"][room_id]
        members = {key for kind, key in keys(room["state"]["events"]) if kind == "m.room.member"}
        assert members == {ALICE, BOB}
        await s.world.send(room_id, BOB)
        await s.world.send(room_id, CAROL)
        second = await s.sync(ALICE, first["next_batch"], filter=LAZY)
        assert keys(second["rooms"]["join"][room_id]["state"]["events"]) == {
            ("m.room.member", CAROL)
        }
        # The response was lost, so the next one must have all of it again.
        again = await s.sync(ALICE, first["next_batch"], filter=LAZY)
        assert again["rooms"] == second["rooms"]
        await s.world.send(room_id, CAROL)
        third = await s.sync(ALICE, again["next_batch"], filter=LAZY)
        assert third["rooms"]["join"][room_id]["state"]["events"] == []
        redundant = {
            "room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}
        }
        fourth = await s.sync(ALICE, again["next_batch"], filter=redundant)
        assert keys(fourth["rooms"]["join"][room_id]["state"]["events"]) == {
            ("m.room.member", CAROL)
        }
        other = await s.sync(ALICE, again["next_batch"], filter=LAZY, device_id="OTHER")
        assert keys(other["rooms"]["join"][room_id]["state"]["events"]) == {
            ("m.room.member", CAROL)
        }


async def test_members_that_changed_in_a_gap_are_sent_despite_lazy_loading(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE, filter=LAZY))["next_batch"]
        await s.world.join(room_id, CAROL)
        for _ in range(10):
            await s.world.send(room_id, BOB)

        answer = await s.sync(ALICE, since, filter=LAZY)

        room = answer["rooms"]["join"][room_id]
        assert ("m.room.member", CAROL) in keys(room["state"]["events"])


async def test_summary_of_a_room_without_a_name_has_heroes(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB], invite=[CAROL])
        for _ in range(10):
            await s.world.send(room_id, ALICE)

        first = await s.sync(ALICE, filter=LAZY)

        room = first["rooms"]["join"][room_id]
        assert room["summary"] == {
            "m.joined_member_count": 2,
            "m.invited_member_count": 1,
            "m.heroes": [BOB, CAROL],
        }
        assert {("m.room.member", BOB), ("m.room.member", CAROL)} <= keys(room["state"]["events"])
        await s.world.send(room_id, BOB)
        second = await s.sync(ALICE, first["next_batch"], filter=LAZY)
        assert "summary" not in second["rooms"]["join"][room_id]
        await s.world.join(room_id, CAROL)
        third = await s.sync(ALICE, second["next_batch"], filter=LAZY)
        assert third["rooms"]["join"][room_id]["summary"]["m.joined_member_count"] == 3


async def test_prev_batch_points_to_the_rest_of_a_limited_timeline(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        sent = [await s.world.send(room_id, ALICE, f"m{n}") for n in range(4)]

        room = (await s.sync(ALICE, filter=limit(2)))["rooms"]["join"][room_id]

        depth, number = room["timeline"]["prev_batch"].removeprefix("t").split("-")
        first = s.world.events.get_nowait(EventID(sent[2].event_id))
        assert first is not None
        assert (int(depth), int(number)) == (first.event.depth, first.stream_id - 1)


async def test_messages_of_ignored_users_are_not_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE))["next_batch"]
        await s.reading.ignore(ALICE, BOB)
        await s.world.send(room_id, BOB, "nonsense")
        await s.world.append(room_id, member(BOB, "join", displayname="b"))

        room = (await s.sync(ALICE, since))["rooms"]["join"][room_id]

        assert [event["type"] for event in room["timeline"]["events"]] == ["m.room.member"]
        assert bodies((await s.sync(ALICE))["rooms"]["join"][room_id]) == []


async def test_transaction_id_is_shown_to_its_own_device_only(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE))["next_batch"]
        from_txn = await send_with_txn(s, room_id)

        for user_id, device_id, shown in (
            (BOB, "DEVICE", False),
            (ALICE, "DEVICE", True),
            (ALICE, "OTHER", False),
            (BOB, "DEVICE", False),
        ):
            answer = await s.sync(user_id, since, device_id=device_id)
            (event,) = answer["rooms"]["join"][room_id]["timeline"]["events"]
            assert event["event_id"] == from_txn
            assert ("transaction_id" in event["unsigned"]) is shown
            assert event["unsigned"]["membership"] == "join"


async def send_with_txn(s: Syncing, room_id: Any) -> str:
    sent = await s.world.send(room_id, ALICE, "mine", txn=txn_key(ALICE, room_id, "t1"))
    return sent.event_id


async def test_prev_batch_of_a_complete_timeline_is_its_end(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)

        answer = await s.sync(ALICE)
        whole = answer["rooms"]["join"][room_id]["timeline"]
        part = (await s.sync(ALICE, filter=limit(2)))["rooms"]["join"][room_id]["timeline"]

        assert whole["prev_batch"] == answer["next_batch"]
        assert part["prev_batch"].startswith("t")


async def test_deleted_account_data_is_sent_after_the_return_to_a_room(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(BOB, join=[ALICE])
        await s.set_account_data(ALICE, "org.x", {"a": 1}, room_id)
        first = await s.sync(ALICE)
        await s.world.leave(room_id, ALICE)
        second = await s.sync(ALICE, first["next_batch"])
        await s.set_account_data(ALICE, "org.x", {}, room_id)
        third = await s.sync(ALICE, second["next_batch"])
        await s.world.join(room_id, ALICE)

        fourth = await s.sync(ALICE, third["next_batch"])
        first = await s.sync(ALICE)

        account_data = fourth["rooms"]["join"][room_id]["account_data"]["events"]
        assert account_data == [{"type": "org.x", "content": {}}]
        assert first["rooms"]["join"][room_id]["account_data"]["events"] == []


async def test_first_sync_says_that_typing_stopped(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        quiet_room = await s.world.create_room(ALICE)
        await s.set_typing(room_id, BOB)
        await s.set_typing(room_id)

        rooms = (await s.sync(ALICE))["rooms"]["join"]

        typing = {"type": "m.typing", "content": {"user_ids": []}}
        assert rooms[room_id]["ephemeral"]["events"] == [typing]
        assert rooms[quiet_room]["ephemeral"]["events"] == []
