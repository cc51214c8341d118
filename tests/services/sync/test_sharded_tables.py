"""Receipts, account data and device lists with two writers, read through a third process."""

from typing import Any

import pytest

from hs.core.ids import UserID
from hs.core.streams import ACCOUNT_DATA, DEVICE_LISTS, RECEIPTS
from hs.storage.database import Database
from tests.services.sync.sharded_cluster import (
    WRITERS,
    becomes_quiet,
    open_cluster,
    sync_until,
    written,
)
from tests.support.rooms import ALICE

NOTE = "org.example.note"


def receipts_in(responses: list[Any]) -> dict[str, str]:
    """Return the event that each user has read, as the last response says."""
    return {
        user_id: event_id
        for response in responses
        for room in response.get("rooms", {}).get("join", {}).values()
        for event in room["ephemeral"]["events"]
        if event["type"] == "m.receipt"
        for event_id, by_type in event["content"].items()
        for user_id in by_type["m.read"]
    }


def notes_in(responses: list[Any]) -> list[Any]:
    """Return the contents of the account data of the type NOTE, in order."""
    return [
        event["content"]["n"]
        for response in responses
        for event in response.get("account_data", {}).get("events", [])
        if event["type"] == NOTE
    ]


def changed_in(responses: list[Any]) -> set[str]:
    """Return the users whose device lists changed."""
    return {
        user_id
        for response in responses
        for user_id in response.get("device_lists", {}).get("changed", [])
    }


async def test_receipts_of_all_writers_are_delivered_once(database: Database) -> None:
    async with open_cluster(database, receipts=WRITERS) as cluster:
        users = [cluster.user_of(RECEIPTS, name, n) for name in WRITERS for n in range(3)]
        room_id = await cluster.main.world.create_room(ALICE)
        for user_id in users:
            await cluster.main.world.join(room_id, user_id)
        event_id = (await cluster.main.world.send(room_id, ALICE)).event_id
        rows = written(cluster, RECEIPTS, "user_id")
        since = (await cluster.second.sync(ALICE))["next_batch"]

        for number, user_id in enumerate(users):
            process = (cluster.main, cluster.first, cluster.second)[number % 3]
            await process.read_up_to(room_id, user_id, event_id)
        responses, since = await sync_until(
            cluster.main, ALICE, since, lambda some: receipts_in(some).keys() == {*users}
        )
        are_quiet = [
            await becomes_quiet(each, ALICE, since) for each in (cluster.first, cluster.second)
        ]

        assert set(receipts_in(responses).values()) == {event_id}
        assert are_quiet == [True, True]
        assert rows == {(cluster.owner(RECEIPTS, user_id), user_id) for user_id in users}


@pytest.mark.parametrize("owner", WRITERS)
async def test_account_data_is_written_by_the_owner_of_the_user(
    database: Database, owner: str
) -> None:
    async with open_cluster(database, account_data=WRITERS) as cluster:
        user_id = cluster.user_of(ACCOUNT_DATA, owner)
        rows = written(cluster, ACCOUNT_DATA, "user_id")
        since = (await cluster.main.sync(user_id))["next_batch"]
        received: list[int] = []

        for number, process in enumerate((cluster.main, cluster.first, cluster.second) * 2):
            await process.set_account_data(user_id, NOTE, {"n": number})
            responses, since = await sync_until(
                cluster.second, user_id, since, lambda some: bool(notes_in(some))
            )
            received += notes_in(responses)

        assert received == list(range(6))
        assert await becomes_quiet(cluster.first, user_id, since)
        assert rows == {(owner, user_id)}


async def test_tokens_from_before_a_writer_was_added_stay_valid(database: Database) -> None:
    users = [UserID(f"@user{n}:test.example") for n in range(8)]
    async with open_cluster(database) as cluster:
        room_id = await cluster.main.world.create_room(ALICE)
        for user_id in users:
            await cluster.main.world.join(room_id, user_id)
        event_id = (await cluster.main.world.send(room_id, ALICE)).event_id
        tokens = {each: (await cluster.first.sync(each))["next_batch"] for each in (ALICE, *users)}
        await cluster.main.read_up_to(room_id, users[0], event_id)
        await cluster.main.set_account_data(users[0], NOTE, {"n": 0})

    async with open_cluster(database, receipts=WRITERS, account_data=WRITERS) as cluster:
        for user_id in users[1:]:
            await cluster.main.read_up_to(room_id, user_id, event_id)
            await cluster.main.set_account_data(user_id, NOTE, {"n": 1})
        _, since = await sync_until(
            cluster.second, ALICE, tokens[ALICE], lambda some: receipts_in(some).keys() == {*users}
        )
        notes = {
            user_id: await sync_until(
                cluster.second, user_id, tokens[user_id], lambda some: bool(notes_in(some))
            )
            for user_id in users
        }
        tokens = {ALICE: since, **{user_id: later for user_id, (_, later) in notes.items()}}
        are_quiet = [await becomes_quiet(cluster.main, *each) for each in tokens.items()]

    assert [notes_in(some) for some, _ in notes.values()] == [[0], *[[1]] * 7]
    assert are_quiet == [True] * 9


async def test_device_list_changes_of_all_writers_are_delivered_once(database: Database) -> None:
    async with open_cluster(database, device_lists=WRITERS) as cluster:
        users = [cluster.user_of(DEVICE_LISTS, name, n) for name in WRITERS for n in range(2)]
        room_id = await cluster.main.world.create_room(ALICE)
        for user_id in users:
            await cluster.main.world.join(room_id, user_id)
        rows = written(cluster, DEVICE_LISTS, "user_id")
        since = (await cluster.second.sync(ALICE))["next_batch"]
        since = (await cluster.second.sync(ALICE, since))["next_batch"]

        for number, user_id in enumerate(users):
            process = (cluster.main, cluster.first, cluster.second)[number % 3]
            await process.services.core.device_writers.lists.announce(user_id, ["PHONE"])
        _, since = await sync_until(
            cluster.main, ALICE, since, lambda some: changed_in(some) == {*users}
        )

        assert await becomes_quiet(cluster.first, ALICE, since)
        assert rows == {(cluster.owner(DEVICE_LISTS, user_id), user_id) for user_id in users}


async def test_silent_writer_of_device_lists_does_not_repeat_changes(database: Database) -> None:
    async with open_cluster(database, device_lists=("one", "gone")) as cluster:
        user_id = cluster.user_of(DEVICE_LISTS, "one")
        room_id = await cluster.main.world.create_room(ALICE)
        await cluster.main.world.join(room_id, user_id)
        since = (await cluster.main.sync(ALICE))["next_batch"]
        await cluster.main.services.core.device_writers.lists.announce(user_id, ["PHONE"])
        _, since = await sync_until(
            cluster.second, ALICE, since, lambda some: changed_in(some) == {user_id}
        )

        readers = (cluster.main, cluster.first, cluster.second)
        assert [await becomes_quiet(each, ALICE, since) for each in readers] == [True] * 3


async def test_silent_writer_does_not_repeat_what_others_write(database: Database) -> None:
    async with open_cluster(database, account_data=("one", "gone"), receipts=("one", "gone")) as c:
        user_id = c.user_of(ACCOUNT_DATA, "one")
        since = (await c.main.sync(user_id))["next_batch"]
        await c.main.set_account_data(user_id, NOTE, {"n": 1})
        responses, since = await sync_until(
            c.second, user_id, since, lambda some: bool(notes_in(some))
        )

        are_quiet = [
            await becomes_quiet(each, user_id, since) for each in (c.main, c.first, c.second)
        ]

        assert notes_in(responses) == [1]
        assert are_quiet == [True] * 3
