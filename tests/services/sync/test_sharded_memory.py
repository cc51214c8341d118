"""Typing notifications and presence with two writers, read through a third process."""

from typing import Any

import trio

from hs.core.ids import UserID
from hs.core.streams import PRESENCE, TYPING
from hs.lib.clock import FixedClock
from hs.repl.slots.assignment import SLOTS
from hs.services.ephemeral.presence_tracking import KEEPALIVE_EVERY_MS
from hs.services.ephemeral.presence_writer import LocalPresenceWriter
from hs.services.ephemeral.sharded_presence import ShardedPresence
from hs.services.ephemeral.typing_notifications import SAVE_EVERY_S, LocalTypingWriter
from hs.storage import stream_slots
from hs.storage.database import Database
from hs.storage.ephemeral import presence as storage
from hs.storage.ephemeral import typing_rooms
from hs.storage.ephemeral.presence import PresenceRecord
from tests.services.sync.sharded_cluster import (
    WRITERS,
    becomes_quiet,
    open_cluster,
    sync_until,
    written,
)
from tests.support.rooms import ALICE, BOB
from tests.support.syncing import Syncing


def typing_in(responses: list[Any]) -> dict[str, list[str]]:
    """Return the users who type in each room, as the last response says."""
    return {
        room_id: event["content"]["user_ids"]
        for response in responses
        for room_id, room in response.get("rooms", {}).get("join", {}).items()
        for event in room["ephemeral"]["events"]
        if event["type"] == "m.typing"
    }


def presence_in(responses: list[Any]) -> dict[str, str]:
    """Return the presence of each user, as the last response says."""
    return {
        event["sender"]: event["content"]["presence"]
        for response in responses
        for event in response.get("presence", {}).get("events", [])
    }


async def test_each_writer_announces_who_types_in_its_rooms(database: Database) -> None:
    async with open_cluster(database, typing=WRITERS) as cluster:
        rooms = {name: await cluster.room_of(TYPING, name, BOB) for name in WRITERS}
        rows = written(cluster, TYPING, "room_id")
        since = (await cluster.main.sync(ALICE))["next_batch"]

        for room_id in rooms.values():
            await cluster.main.set_typing(room_id, BOB)
        responses, since = await sync_until(
            cluster.second, ALICE, since, lambda some: typing_in(some).keys() == {*rooms.values()}
        )
        is_quiet = await becomes_quiet(cluster.first, ALICE, since)
        await cluster.first.set_typing(rooms["two"])
        stopped, _ = await sync_until(
            cluster.main, ALICE, since, lambda some: bool(typing_in(some))
        )

        assert typing_in(responses) == {room_id: [BOB] for room_id in rooms.values()}
        assert is_quiet
        assert typing_in(stopped) == {rooms["two"]: []}
        assert rows == set(rooms.items())


async def test_new_writers_of_typing_end_what_was_typed_before_them(database: Database) -> None:
    clock = FixedClock()
    async with open_cluster(database, clock=clock) as cluster:
        rooms = [await cluster.main.world.create_room(ALICE, join=[BOB]) for _ in range(8)]
        for room_id in rooms:
            await cluster.main.set_typing(room_id, BOB)
        writer = cluster.main.services.ephemeral.typing.writer
        assert isinstance(writer, LocalTypingWriter)
        await writer.save()
        since = (await cluster.first.sync(ALICE))["next_batch"]

    clock.advance(1000)
    async with (
        open_cluster(database, clock=clock, typing=WRITERS) as cluster,
        cluster.first.process.duties("typing"),
        cluster.second.process.duties("typing"),
    ):
        responses, since = await sync_until(
            cluster.main, ALICE, since, lambda some: len(typing_in(some)) == len(rooms)
        )
        is_quiet = await becomes_quiet(cluster.second, ALICE, since)

    assert typing_in(responses) == {room_id: [] for room_id in rooms}
    assert is_quiet


async def test_each_writer_computes_the_presence_of_its_users(database: Database) -> None:
    async with open_cluster(database, presence=WRITERS) as cluster:
        users = {name: cluster.user_of(PRESENCE, name) for name in WRITERS}
        room_id = await cluster.main.world.create_room(ALICE)
        for user_id in users.values():
            await cluster.main.world.join(room_id, user_id)
        rows = written(cluster, PRESENCE, "user_id")
        since = (await cluster.main.sync(ALICE, set_presence="offline"))["next_batch"]

        for user_id in users.values():
            await cluster.main.set_presence(user_id, "online")
        responses, since = await sync_until(
            cluster.second, ALICE, since, lambda some: presence_in(some).keys() >= {*users.values()}
        )
        is_quiet = await becomes_quiet(cluster.first, ALICE, since)
        await cluster.second.set_presence(users["one"], "unavailable")
        later, _ = await sync_until(
            cluster.main, ALICE, since, lambda some: users["one"] in presence_in(some)
        )
        shown = [
            await process.presence_of(user_id)
            for process in (cluster.main, cluster.first, cluster.second)
            for user_id in users.values()
        ]

        assert {presence_in(responses)[user_id] for user_id in users.values()} == {"online"}
        assert is_quiet
        assert presence_in(later).keys() & {*users.values()} == {users["one"]}
        assert shown == ["unavailable", "online"] * 3
        assert rows >= set(users.items())
        assert all(cluster.owner(PRESENCE, user_id) == writer for writer, user_id in rows)


async def test_every_writer_of_presence_gets_keepalives_of_a_process(database: Database) -> None:
    clock = FixedClock()
    async with open_cluster(database, clock=clock, presence=WRITERS) as cluster:
        users = [cluster.user_of(PRESENCE, name) for name in WRITERS]
        presence = cluster.main.services.ephemeral.presence
        with (
            presence.syncing(users[0], "PHONE", "online"),
            presence.syncing(users[1], "PHONE", "online"),
        ):
            for _ in range(8):
                await presence.devices.flush()
                clock.advance(KEEPALIVE_EVERY_MS)
                for name, process in cluster.writers.items():
                    local_writer(process, name).expire()
            shown = [await cluster.second.presence_of(user_id) for user_id in users]

    assert shown == ["online", "online"]


async def test_new_holder_of_a_user_announces_what_others_were_not_told(
    database: Database,
) -> None:
    async with open_cluster(database, presence=WRITERS) as cluster:
        user_id = cluster.user_of(PRESENCE, "one")
        room_id = await cluster.main.world.create_room(ALICE)
        await cluster.main.world.join(room_id, user_id)
        await cluster.main.set_presence(user_id, "online")
        writer = local_writer(cluster.first, "one")
        await writer.save()
        since = (await cluster.main.sync(ALICE, set_presence="offline"))["next_batch"]
        # As if another process had held the user, and the message that it sent had been lost.
        writer.lose(user_id.__eq__)
        offline = PresenceRecord(user_id, "offline", 1, None, False)
        await database.write(storage.save, [offline])

        writer.gain(user_id.__eq__)
        async with cluster.first.process.duties("presence"):
            responses, _ = await sync_until(
                cluster.main, ALICE, since, lambda some: user_id in presence_in(some)
            )

    assert presence_in(responses)[user_id] == "offline"


async def test_writers_store_nothing_of_what_others_have_taken_over_unnoticed(
    database: Database,
) -> None:
    async with (
        open_cluster(database, presence=WRITERS, typing=WRITERS) as cluster,
        cluster.first.process.duties("typing"),
    ):
        user_id = cluster.user_of(PRESENCE, "one")
        rooms = [await cluster.room_of(TYPING, "one", BOB) for _ in range(2)]
        await cluster.main.set_typing(rooms[0], BOB)
        await trio.sleep(2 * SAVE_EVERY_S)
        await cluster.main.set_presence(user_id, "online")
        await cluster.main.set_typing(rooms[1], BOB)
        # As if the process did not run for a while.
        for stream in (PRESENCE, TYPING):
            await database.write(stream_slots.give, stream.name, "one", "two", range(SLOTS))
        newer = PresenceRecord(user_id, "unavailable", 1, None, False)
        await database.write(storage.save, [newer])

        await local_writer(cluster.first, "one").save()
        await trio.sleep(2 * SAVE_EVERY_S)
        stored = await database.read(storage.list_of_users, [user_id])
        stored_rooms = await database.read(typing_rooms.list_all)

    assert stored == [newer]
    assert stored_rooms == rooms[:1]


def local_writer(process: Syncing, name: str) -> LocalPresenceWriter:
    """Return the writer in its own process."""
    sharded = process.services.ephemeral.presence.writer
    assert isinstance(sharded, ShardedPresence)
    writer = sharded.writer_of(name)
    assert isinstance(writer, LocalPresenceWriter)
    return writer


async def test_users_keep_their_presence_when_a_writer_is_added(database: Database) -> None:
    clock = FixedClock()
    async with open_cluster(database, clock=clock) as cluster:
        room_id = await cluster.main.world.create_room(ALICE)
        users = [UserID(f"@user{n}:test.example") for n in range(6)]
        for user_id in users:
            await cluster.main.world.join(room_id, user_id)
            await cluster.main.set_presence(user_id, "online")
        writer = cluster.main.services.ephemeral.presence.writer
        assert isinstance(writer, LocalPresenceWriter)
        await writer.save()
        since = (await cluster.main.sync(ALICE, set_presence="offline"))["next_batch"]

    clock.advance(1000)
    async with open_cluster(database, clock=clock, presence=WRITERS) as cluster:
        for name, process in cluster.writers.items():
            own = local_writer(process, name)
            await own.load()
            assert own.users_in_memory == sum(
                cluster.owner(PRESENCE, user_id) == name for user_id in users
            )
        first = await cluster.first.sync(ALICE, since, set_presence="offline")
        shown = {await cluster.main.presence_of(user_id) for user_id in users}

        assert presence_in([first]) == {}
        assert shown == {"online"}
