"""Tests of sliding sync: account data, receipts, typing, and waiting for changes."""

from typing import Any

import trio
import trio.testing

from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import Sliding, bodies, busy_rooms, open_sliding, window

DATA = {"account_data": {"enabled": True}}
RECEIPTS = {"receipts": {"enabled": True}}
TYPING = {"typing": {"enabled": True}}


async def test_account_data_is_sent_completely_and_then_when_it_changes(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        foreign_room = await s.world.create_room(BOB)
        await s.set_account_data(ALICE, "org.x", {"a": 1})
        await s.set_account_data(ALICE, "m.tag", {"tags": {}}, room_id)
        await s.set_account_data(ALICE, "m.tag", {"tags": {}}, foreign_room)
        first = await s.sync(ALICE, extensions=DATA)
        second = await s.sync(ALICE, first["pos"], extensions=DATA)
        await s.set_account_data(ALICE, "org.y", {"b": 1})
        await s.set_account_data(ALICE, "org.z", {"c": 1}, room_id)
        third = await s.sync(ALICE, second["pos"], extensions=DATA)
        await s.change_rules(ALICE)
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


async def test_deleted_account_data_is_sent_to_clients_that_may_have_it(database: Database) -> None:
    async with open_sliding(database) as s:
        in_range, out_of_range = await busy_rooms(s.world, ALICE, 2)
        for room_id in (None, in_range, out_of_range):
            await s.set_account_data(ALICE, "org.x", {"a": 1}, room_id)
        parameters: dict[str, Any] = {"lists": window([0, 0]), "extensions": DATA}
        first = await s.sync(ALICE, extensions=DATA)
        # One room leaves the range of the list, and returns later.
        await s.world.send(in_range, ALICE)
        second = await s.sync(ALICE, first["pos"], **parameters)
        for room_id in (None, in_range, out_of_range):
            await s.set_account_data(ALICE, "org.x", {}, room_id)
        third = await s.sync(ALICE, second["pos"], **parameters)
        fourth = await s.sync(ALICE, third["pos"], extensions=DATA)
        fifth = await s.sync(ALICE, fourth["pos"], extensions=DATA)
        initial = await s.sync(ALICE, extensions=DATA)

        deleted = {"type": "org.x", "content": {}}
        account_data = third["extensions"]["account_data"]
        assert account_data == {"global": [deleted], "rooms": {in_range: [deleted]}}
        assert fourth["extensions"]["account_data"] == {"rooms": {out_of_range: [deleted]}}
        assert fifth["extensions"] == {}
        assert [event["type"] for event in initial["extensions"]["account_data"]["global"]] == [
            "m.push_rules"
        ]
        assert "rooms" not in initial["extensions"]["account_data"]


async def test_disabled_extensions_are_omitted(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.set_account_data(ALICE, "org.x", {})

        disabled = {"enabled": False}
        response = await s.sync(ALICE, extensions={"account_data": disabled, "e2ee": disabled})

        assert response["extensions"] == {}


async def test_new_room_has_own_receipts_and_those_of_its_timeline_events(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL])
        oldest, old, new = [
            (await s.world.send(room_id, ALICE, body)).event_id for body in ("oldest", "old", "new")
        ]
        at = {"ts": s.world.clock.now_ms()}
        await s.read_up_to(room_id, BOB, new)
        await s.read_up_to(room_id, CAROL, oldest)
        await s.read_up_to(room_id, ALICE, old, "m.read.private")
        first = await s.sync(ALICE, lists=window(limit=1), extensions=RECEIPTS)
        await s.read_up_to(room_id, CAROL, old)
        second = await s.sync(ALICE, first["pos"], lists=window(limit=1), extensions=RECEIPTS)
        await s.read_up_to(room_id, BOB, new, "m.read.private")
        third = await s.sync(ALICE, second["pos"], lists=window(limit=1), extensions=RECEIPTS)

        assert first["extensions"]["receipts"]["rooms"][room_id] == {
            "type": "m.receipt",
            "content": {
                new: {"m.read": {BOB: at}},
                old: {"m.read.private": {ALICE: at}},
            },
        }
        moved = second["extensions"]["receipts"]["rooms"][room_id]["content"]
        assert moved == {old: {"m.read": {CAROL: at}}}
        assert third["extensions"] == {}


async def test_typing_is_sent_when_it_starts_and_stops(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.set_typing(room_id, BOB)
        first = await s.sync(ALICE, extensions=TYPING)
        second = await s.sync(ALICE, first["pos"], extensions=TYPING)
        await s.set_typing(room_id)
        third = await s.sync(ALICE, second["pos"], extensions=TYPING)

        def typing(response: dict[str, Any]) -> Any:
            return response["extensions"]["typing"]["rooms"][room_id]["content"]["user_ids"]

        assert typing(first) == [BOB]
        assert second["extensions"] == {}
        assert typing(third) == []


async def test_extension_is_limited_to_lists_and_rooms(database: Database) -> None:
    async with open_sliding(database) as s:
        listed, subscribed = await busy_rooms(s.world, ALICE, 2)
        lists = window([1, 1])
        for room_id in (listed, subscribed):
            await s.set_typing(room_id, ALICE)

        async def rooms(**scope: list[str]) -> set[str]:
            extensions = {"typing": {"enabled": True, **scope}}
            subscriptions: dict[str, Any] = {subscribed: {}}
            response = await s.sync(
                ALICE, lists=lists, room_subscriptions=subscriptions, extensions=extensions
            )
            return set(response["extensions"].get("typing", {}).get("rooms", ()))

        assert await rooms() == {listed, subscribed}
        assert await rooms(lists=["*"], rooms=[]) == {listed}
        assert await rooms(lists=["nothing"], rooms=[]) == set()
        assert await rooms(lists=[], rooms=["*"]) == {subscribed}
        assert await rooms(lists=[], rooms=[subscribed]) == {subscribed}


async def test_receipts_of_room_out_of_range_are_sent_when_it_returns(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 2)
        await s.world.join(rooms[1], BOB)
        sent = await s.world.send(rooms[1], ALICE)
        parameters: dict[str, Any] = {"lists": window([0, 0]), "extensions": RECEIPTS}
        first = await s.sync(ALICE, **parameters)
        await s.world.send(rooms[0], ALICE, "up")
        second = await s.sync(ALICE, first["pos"], **parameters)
        await s.read_up_to(rooms[1], BOB, sent.event_id)
        third = await s.sync(ALICE, second["pos"], **parameters)
        await s.world.send(rooms[1], ALICE, "back")
        fourth = await s.sync(ALICE, third["pos"], **parameters)

        assert third["extensions"] == {}
        assert set(fourth["extensions"]["receipts"]["rooms"]) == {rooms[1]}


async def _woken(s: Sliding, pos: str, change: Any, **more: Any) -> dict[str, Any]:
    responses: list[dict[str, Any]] = []

    async def wait() -> None:
        responses.append(await s.sync(ALICE, pos, timeout_ms=60_000, **more))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not responses
            result = change()
            if result is not None:
                await result
    return responses[0]


async def test_message_wakes_waiting_request(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        pos = (await s.sync(ALICE))["pos"]

        response = await _woken(s, pos, lambda: s.world.send(room_id, BOB, "wake up"))

        assert bodies(response["rooms"][room_id]) == ["wake up"]


async def test_message_in_room_not_requested_does_not_end_waiting(database: Database) -> None:
    async with open_sliding(database) as s:
        shown, hidden = await busy_rooms(s.world, ALICE, 2)
        parameters: dict[str, Any] = {
            "lists": {},
            "room_subscriptions": {shown: {"timeline_limit": 1}},
        }
        pos = (await s.sync(ALICE, **parameters))["pos"]

        async def change() -> None:
            await s.world.send(hidden, ALICE, "unheard")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await s.world.send(shown, ALICE, "heard")

        response = await _woken(s, pos, change, **parameters)

        assert set(response["rooms"]) == {shown}


async def test_request_without_changes_is_answered_at_timeout(database: Database) -> None:
    async with open_sliding(database) as s:
        await busy_rooms(s.world, ALICE, 2)
        first = await s.sync(ALICE)

        response = await s.sync(ALICE, first["pos"], timeout_ms=1)

        assert response["lists"] == {"all": {"count": 2}}
        assert (response["rooms"], response["extensions"]) == ({}, {})
        assert response["pos"] == first["pos"]


async def test_waiting_request_is_answered_when_process_drains(database: Database) -> None:
    async with open_sliding(database) as s:
        pos = (await s.sync(ALICE))["pos"]

        response = await _woken(s, pos, s.notifier.leave)

        assert response["rooms"] == {}


async def test_changed_range_is_answered_at_once(database: Database) -> None:
    async with open_sliding(database) as s:
        rooms = await busy_rooms(s.world, ALICE, 2)
        first = await s.sync(ALICE, lists=window([0, 0]))

        with trio.fail_after(60):
            response = await s.sync(ALICE, first["pos"], lists=window([0, 1]), timeout_ms=60_000)

        assert set(response["rooms"]) == {rooms[0]}
