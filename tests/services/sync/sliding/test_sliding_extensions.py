"""Sliding sync: account data, receipts, typing, and long polls."""

from typing import Any

import trio
import trio.testing

from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB
from tests.support.sliding import Sliding, bodies, busy_rooms, open_sliding, window

DATA = {"account_data": {"enabled": True}}
RECEIPTS = {"receipts": {"enabled": True}}
TYPING = {"typing": {"enabled": True}}


async def test_account_data_is_complete_at_first_and_then_only_changes(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        other = await s.world.create_room(BOB)
        s.tables.set_account_data(ALICE, "org.x", {"a": 1})
        s.tables.set_account_data(ALICE, "m.tag", {"tags": {}}, room_id)
        s.tables.set_account_data(ALICE, "m.tag", {"tags": {}}, other)
        first = await s.sync(ALICE, extensions=DATA)
        second = await s.sync(ALICE, first["pos"], extensions=DATA)
        s.tables.set_account_data(ALICE, "org.y", {"b": 1})
        s.tables.set_account_data(ALICE, "org.z", {"c": 1}, room_id)
        third = await s.sync(ALICE, second["pos"], extensions=DATA)
        s.tables.change_rules(ALICE)
        fourth = await s.sync(ALICE, third["pos"], extensions=DATA)

        data = first["extensions"]["account_data"]
        assert {event["type"] for event in data["global"]} == {"org.x", "m.push_rules"}
        assert data["rooms"] == {room_id: [{"type": "m.tag", "content": {"tags": {}}}]}
        assert second["extensions"] == {}
        assert third["extensions"]["account_data"] == {
            "global": [{"type": "org.y", "content": {"b": 1}}],
            "rooms": {room_id: [{"type": "org.z", "content": {"c": 1}}]},
        }
        assert [event["type"] for event in fourth["extensions"]["account_data"]["global"]] == [
            "m.push_rules"
        ]


async def test_deleted_account_data_is_sent_to_clients_that_had_it(database: Database) -> None:
    async with open_sliding(database) as s:
        shown, away = await busy_rooms(s.world, ALICE, 2)
        for room_id in (None, shown, away):
            s.tables.set_account_data(ALICE, "org.x", {"a": 1}, room_id)
        request: dict[str, Any] = {"lists": window([0, 0]), "extensions": DATA}
        first = await s.sync(ALICE, extensions=DATA)
        # `away` leaves the window here and returns in the fourth response.
        await s.world.send(shown, ALICE)
        second = await s.sync(ALICE, first["pos"], **request)
        for room_id in (None, shown, away):
            s.tables.set_account_data(ALICE, "org.x", {}, room_id)
        third = await s.sync(ALICE, second["pos"], **request)
        fourth = await s.sync(ALICE, third["pos"], extensions=DATA)
        fifth = await s.sync(ALICE, fourth["pos"], extensions=DATA)
        restarted = await s.sync(ALICE, extensions=DATA)

        deleted = {"type": "org.x", "content": {}}
        account_data = third["extensions"]["account_data"]
        assert account_data == {"global": [deleted], "rooms": {shown: [deleted]}}
        assert fourth["extensions"]["account_data"] == {"rooms": {away: [deleted]}}
        assert fifth["extensions"] == {}
        assert [event["type"] for event in restarted["extensions"]["account_data"]["global"]] == [
            "m.push_rules"
        ]
        assert "rooms" not in restarted["extensions"]["account_data"]


async def test_disabled_extensions_are_omitted(database: Database) -> None:
    async with open_sliding(database) as s:
        s.tables.set_account_data(ALICE, "org.x", {})

        extensions: dict[str, Any] = {"account_data": {"enabled": False}, "e2ee": {"enabled": True}}
        answer = await s.sync(ALICE, extensions=extensions)

        assert answer["extensions"] == {}


async def test_receipts_at_sent_events_and_own_receipts(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        old = (await s.world.send(room_id, ALICE, "old")).event_id
        new = (await s.world.send(room_id, ALICE, "new")).event_id
        s.tables.read_up_to(room_id, BOB, new)
        s.tables.read_up_to(room_id, BOB, old, "m.other")
        s.tables.read_up_to(room_id, ALICE, old, "m.read.private")
        first = await s.sync(ALICE, lists=window(limit=1), extensions=RECEIPTS)
        s.tables.read_up_to(room_id, BOB, old)
        second = await s.sync(ALICE, first["pos"], lists=window(limit=1), extensions=RECEIPTS)
        s.tables.read_up_to(room_id, BOB, new, "m.read.private")
        third = await s.sync(ALICE, second["pos"], lists=window(limit=1), extensions=RECEIPTS)

        assert first["extensions"]["receipts"]["rooms"][room_id] == {
            "type": "m.receipt",
            "content": {
                new: {"m.read": {BOB: {"ts": 1}}},
                old: {"m.read.private": {ALICE: {"ts": 1}}},
            },
        }
        moved = second["extensions"]["receipts"]["rooms"][room_id]["content"]
        assert moved == {old: {"m.read": {BOB: {"ts": 1}}}}
        assert third["extensions"] == {}


async def test_start_and_end_of_typing_are_sent(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        s.tables.set_typing(room_id, BOB)
        first = await s.sync(ALICE, extensions=TYPING)
        second = await s.sync(ALICE, first["pos"], extensions=TYPING)
        s.tables.set_typing(room_id)
        third = await s.sync(ALICE, second["pos"], extensions=TYPING)

        def typing(answer: dict[str, Any]) -> Any:
            return answer["extensions"]["typing"]["rooms"][room_id]["content"]["user_ids"]

        assert typing(first) == [BOB]
        assert second["extensions"] == {}
        assert typing(third) == []


async def test_extension_limited_to_lists_and_rooms(database: Database) -> None:
    async with open_sliding(database) as s:
        listed, subscribed = await busy_rooms(s.world, ALICE, 2)
        lists = window([1, 1])
        for room_id in (listed, subscribed):
            s.tables.set_typing(room_id, BOB)

        async def rooms(**scope: list[str]) -> set[str]:
            answer = await s.sync(
                ALICE,
                lists=lists,
                room_subscriptions={subscribed: {}},
                extensions={"typing": {"enabled": True, **scope}},
            )
            return set(answer["extensions"].get("typing", {}).get("rooms", ()))

        assert await rooms() == {listed, subscribed}
        assert await rooms(lists=["*"], rooms=[]) == {listed}
        assert await rooms(lists=["nothing"], rooms=[]) == set()
        assert await rooms(lists=[], rooms=["*"]) == {subscribed}
        assert await rooms(lists=[], rooms=[subscribed]) == {subscribed}


async def test_receipts_of_a_room_outside_of_the_windows_are_sent_when_it_returns(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 2)
        request: dict[str, Any] = {"lists": window([0, 0]), "extensions": RECEIPTS}
        first = await s.sync(ALICE, **request)
        sent = await s.world.send(rooms[0], ALICE, "up")
        second = await s.sync(ALICE, first["pos"], **request)
        s.tables.read_up_to(rooms[1], BOB, sent.event_id)
        third = await s.sync(ALICE, second["pos"], **request)
        await s.world.send(rooms[1], ALICE, "back")
        fourth = await s.sync(ALICE, third["pos"], **request)

        assert third["extensions"] == {}
        assert set(fourth["extensions"]["receipts"]["rooms"]) == {rooms[1]}


async def _woken(s: Sliding, pos: str, change: Any, **more: Any) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []

    async def wait() -> None:
        answers.append(await s.sync(ALICE, pos, timeout_ms=60_000, **more))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not answers
            result = change()
            if result is not None:
                await result
    return answers[0]


async def test_message_wakes_a_long_poll(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        pos = (await s.sync(ALICE))["pos"]

        answer = await _woken(s, pos, lambda: s.world.send(room_id, BOB, "wake up"))

        assert bodies(answer["rooms"][room_id]) == ["wake up"]


async def test_changes_of_rooms_that_are_not_requested_do_not_end_a_long_poll(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        shown, hidden = await busy_rooms(s.world, ALICE, 2)
        lists: dict[str, Any] = {"lists": {}, "room_subscriptions": {shown: {"timeline_limit": 1}}}
        pos = (await s.sync(ALICE, **lists))["pos"]

        async def change() -> None:
            await s.world.send(hidden, ALICE, "unheard")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await s.world.send(shown, ALICE, "heard")

        answer = await _woken(s, pos, change, **lists)

        assert set(answer["rooms"]) == {shown}


async def test_long_poll_without_changes_ends_at_the_timeout(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 2)
        first = await s.sync(ALICE)

        answer = await s.sync(ALICE, first["pos"], timeout_ms=1)

        assert answer["lists"] == {"all": {"count": 2}}
        assert (answer["rooms"], answer["extensions"]) == ({}, {})
        assert answer["pos"] == first["pos"]


async def test_long_polls_end_when_the_process_leaves(database: Database) -> None:
    async with open_sliding(database) as s:
        pos = (await s.sync(ALICE))["pos"]

        answer = await _woken(s, pos, s.notifier.leave)

        assert answer["rooms"] == {}


async def test_changed_request_is_answered_at_once(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 2)
        first = await s.sync(ALICE, lists=window([0, 0]))

        with trio.fail_after(60):
            answer = await s.sync(ALICE, first["pos"], lists=window([0, 1]), timeout_ms=60_000)

        assert set(answer["rooms"]) == {rooms[0]}
