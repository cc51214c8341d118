"""Users and rooms whose owner hangs, or gives them away: another process goes on for them.

A process whose keeper does not run is like one that is stopped (SIGSTOP): it gives no sign of life.
"""

import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from hs.core.ids import UserID
from hs.core.stream_def import ANY_PROCESS, StreamDef
from hs.core.streams import (
    ACCOUNT_DATA,
    DEVICE_LISTS,
    PRESENCE,
    RECEIPTS,
    SLOTS,
    TO_DEVICE,
    TYPING,
    SlotsRow,
    TypingRow,
)
from hs.lib.clock import FixedClock
from hs.repl.feed import Batch
from hs.repl.slots.keeper import SlotKeeper
from hs.repl.writers import StreamIds, WriterFenced
from hs.services.accounts.sessions.sessions import RequestedDevice
from hs.services.devices.inbox_writer import ToDeviceRequest
from hs.services.ephemeral.presence_tracking import KEEPALIVE_EVERY_MS
from hs.storage.database import Database, Tx
from tests.services.sync.sharded_cluster import WRITERS, Cluster, open_cluster, sync_until
from tests.services.sync.test_sharded_memory import local_writer, presence_in, typing_in
from tests.services.sync.test_sharded_tables import NOTE, changed_in, notes_in, receipts_in
from tests.support.rooms import ALICE, BOB
from tests.support.syncing import Syncing

WAIT_S = 30.0
STREAMS = (ACCOUNT_DATA, DEVICE_LISTS, PRESENCE, RECEIPTS, TO_DEVICE, TYPING)


def keeper_of(process: Syncing) -> SlotKeeper:
    """Return the keeper of a process's slots."""
    assert process.process.base.slots is not None
    return process.process.base.slots


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - conditions of other tasks
            await trio.sleep(0.01)


@asynccontextmanager
async def open_writers(
    database: Database, *, clock: FixedClock | None = None
) -> AsyncIterator[Cluster]:
    """Start two writers of all streams, and a process that writes none of them."""
    writers = {stream.name: WRITERS for stream in STREAMS}
    async with open_cluster(database, clock=clock, **writers) as cluster:
        for process in cluster.writers.values():
            keeper_of(process).beat_s = 0.05
            keeper_of(process).silent_s = 0.4
        yield cluster


@asynccontextmanager
async def taken_over(cluster: Cluster) -> AsyncIterator[None]:
    """Let the first writer hang, and wait until the second one holds all; it does so meanwhile."""
    table = keeper_of(cluster.second).table
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper_of(cluster.second).run)
        await wait_until(lambda: all(len(table.held(stream.name)) == 256 for stream in STREAMS))
        yield
        nursery.cancel_scope.cancel()


async def give_all(giver: Syncing, taker: Syncing) -> None:
    """Let a process give all slots of all streams to another one."""
    for stream in STREAMS:
        await give(stream, giver, taker)
    await keeper_of(taker)._accept()


async def give(stream: StreamDef[Any], giver: Syncing, taker: Syncing) -> None:
    """Let a process give all slots of a stream to another one."""
    slots = sorted(keeper_of(giver).table.held(stream.name))
    await keeper_of(giver)._give(stream.name, {keeper_of(taker).table.instance: slots})


async def send_to(process: Syncing, number: int, *users: UserID) -> None:
    """Send a numbered message to a device of each user."""
    inboxes = process.services.core.device_writers.inboxes
    request = ToDeviceRequest(ALICE, "DEVICE", "m.test", f"t{number}")
    messages = [b'{"body":%d}' % number] * len(users)
    devices: list[tuple[str, str]] = [(user_id, "DEVICE") for user_id in users]
    await inboxes.send(request, b'{"type":"m.test","sender":"@a:b","content":', devices, messages)


async def open_device(process: Syncing, user_id: UserID) -> UserID:
    """Log in the device of a user; return the user."""
    sessions = process.services.core.sessions.sessions
    await sessions.open(user_id, RequestedDevice(device_id="DEVICE", display_name=None))
    return user_id


def is_typing_told(responses: list[Any]) -> bool:
    """Return whether responses say who types."""
    return bool(typing_in(responses))


def numbers_in(response: dict[str, Any]) -> list[int]:
    """Return the numbers of the messages to a device."""
    events = response.get("to_device", {}).get("events", [])
    return [event["content"]["body"] for event in events]


async def test_another_process_writes_for_the_users_of_one_that_hangs(database: Database) -> None:
    async with open_writers(database) as cluster:
        main = cluster.main
        users = {
            stream: cluster.user_of(stream, "one")
            for stream in (ACCOUNT_DATA, RECEIPTS, DEVICE_LISTS)
        }
        room_id = await main.world.create_room(ALICE, join=list(users.values()))
        event_id = (await main.world.send(room_id, ALICE)).event_id
        noting, reading, changing = users.values()
        noted = (await main.sync(noting))["next_batch"]
        since = (await main.sync(ALICE))["next_batch"]

        async with taken_over(cluster):
            await main.set_account_data(noting, NOTE, {"n": 1})
            await main.read_up_to(room_id, reading, event_id)
            await main.services.core.device_writers.lists.announce(changing, ["PHONE"])
            responses, _ = await sync_until(
                main,
                ALICE,
                since,
                lambda some: bool(receipts_in(some)) and bool(changed_in(some)),
            )
            notes, _ = await sync_until(main, noting, noted, lambda some: bool(notes_in(some)))

        assert receipts_in(responses) == {reading: event_id}
        assert changed_in(responses) == {changing}
        assert notes_in(notes) == [1]


@pytest.mark.parametrize("stream", [ACCOUNT_DATA, RECEIPTS, DEVICE_LISTS, TO_DEVICE])
async def test_process_that_hung_commits_nothing_for_users_whom_others_own(
    database: Database, stream: Any
) -> None:
    async with open_writers(database) as cluster:
        hung, user_id = cluster.first, cluster.user_of(stream, "one")
        await open_device(cluster.main, user_id)
        room_id = await cluster.main.world.create_room(ALICE, join=[user_id])
        event_id = (await cluster.main.world.send(room_id, ALICE)).event_id
        async with taken_over(cluster):
            # It does not know yet: to it, the user is its own, and the database refuses.
            table = keeper_of(hung).table
            table._holders[stream.name] = ["one"] * 256
            table._held[stream.name] = set(range(256))

            write = {
                ACCOUNT_DATA: partial(hung.set_account_data, user_id, NOTE, {"n": 1}),
                RECEIPTS: partial(hung.read_up_to, room_id, user_id, event_id),
                TO_DEVICE: partial(send_to, hung, 1, user_id),
                DEVICE_LISTS: partial(
                    hung.services.core.device_writers.lists.announce, user_id, ["PHONE"]
                ),
            }
            with pytest.raises(WriterFenced):
                await write[stream]()

            assert table.must_return
            assert not table.held(stream.name)


async def test_devices_get_each_message_once_and_in_order_while_inboxes_pass_to_and_fro(
    database: Database,
) -> None:
    async with open_writers(database) as cluster:
        processes = (cluster.main, cluster.first, cluster.second)
        users = [cluster.user_of(TO_DEVICE, name, n) for name in WRITERS for n in range(2)]
        for user_id in users:
            await open_device(cluster.main, user_id)
        tokens = {each: (await cluster.main.sync(each))["next_batch"] for each in users}
        received: dict[UserID, list[int]] = {user_id: [] for user_id in users}

        for number in range(12):
            if number % 3 == 1:
                giver, taker = (cluster.first, cluster.second)[:: 1 if number % 2 else -1]
                await give_all(giver, taker)
            # The request is repeated, also after another process has come to own the users.
            for count in {number, max(number - 1, 0)}:
                await send_to(processes[(number + count) % 3], count, *users)
            if number % 4 == 0:
                continue
            for user_id in users:
                reader = processes[number % 3]
                response = await reader.sync(user_id, tokens[user_id], timeout_ms=1_000)
                received[user_id] += numbers_in(response)
                tokens[user_id] = response["next_batch"]
                # A poll that nothing interrupts keeps the position.
                response = await reader.sync(user_id, tokens[user_id])
                received[user_id] += numbers_in(response)
                tokens[user_id] = response["next_batch"]

        assert received == {user_id: list(range(12)) for user_id in users}


async def test_writers_are_known_again_after_changes_of_slots_were_missed(
    database: Database,
) -> None:
    async with open_writers(database) as cluster, trio.open_nursery() as nursery:
        user_id = await open_device(cluster.main, cluster.user_of(TO_DEVICE, "one"))
        keeper = keeper_of(cluster.main)
        (reader,) = keeper.readers
        await nursery.start(keeper.run)
        await give(TO_DEVICE, cluster.first, cluster.second)

        feed = cluster.main.world.feed
        position = feed.position_of(SLOTS, ANY_PROCESS) or 0
        feed.deliver(Batch(SLOTS, ANY_PROCESS, 0, position, [], reset=True))
        missing = reader.writer_of(user_id)
        await wait_until(lambda: reader.has_begun)

        assert (missing, reader.writer_of(user_id)) == (None, "two")
        nursery.cancel_scope.cancel()


async def test_device_gets_nothing_again_from_an_owner_whose_position_was_behind_its_token(
    database: Database,
) -> None:
    async with open_writers(database) as cluster:
        user_id = await open_device(cluster.main, cluster.user_of(TO_DEVICE, "one"))
        since = (await cluster.main.sync(user_id))["next_batch"]
        # As during a long transaction, in which it does not follow the numbers of the other writer.
        next_writer = cluster.second.process.base.table(TO_DEVICE)
        next_writer._busy = True
        received: list[int] = []

        async def sync_at(process: Syncing) -> None:
            nonlocal since
            response = await process.sync(user_id, since)
            received.extend(numbers_in(response))
            since = response["next_batch"]

        await send_to(cluster.main, 1, user_id)
        await sync_at(cluster.main)
        await give_all(cluster.first, cluster.second)
        next_writer._busy = False
        await send_to(cluster.main, 2, user_id)
        await sync_at(cluster.first)
        await sync_at(cluster.second)

        assert received == [1, 2]


async def test_request_from_before_there_were_several_writers_is_known(
    database: Database,
) -> None:
    async with open_cluster(database) as cluster:
        await open_device(cluster.main, BOB)
        await send_to(cluster.main, 1, BOB)

    async with open_writers(database) as cluster:
        await send_to(cluster.main, 1, BOB)

        assert numbers_in(await cluster.main.sync(BOB)) == [1]


async def test_users_pass_on_only_after_what_a_caller_left_behind_is_written(
    database: Database,
) -> None:
    async with open_writers(database) as cluster:
        user_id = await open_device(cluster.main, cluster.user_of(TO_DEVICE, "one"))
        writer = cluster.first.process.base.table(TO_DEVICE)
        ends: list[int] = []

        def note(batch: Batch[SlotsRow]) -> None:
            ends.extend(
                end for _, row in batch.rows for name, _, end in row.ends if name == TO_DEVICE.name
            )

        cluster.main.world.feed.subscribe(SLOTS, note)
        has_begun, may_end = threading.Event(), threading.Event()

        async def hold(tx: Tx, ids: StreamIds) -> tuple[None, list[Any]]:
            has_begun.set()
            may_end.wait(WAIT_S)  # in the thread of the database
            return None, []

        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.write, hold)
            await wait_until(has_begun.is_set)
            nursery.start_soon(send_to, cluster.first, 1, user_id)
            await wait_until(lambda: writer.waiting == 1)
            nursery.cancel_scope.cancel()
        may_end.set()
        await give(TO_DEVICE, cluster.first, cluster.second)

        assert numbers_in(await cluster.main.sync(user_id)) == [1]
        assert ends == [writer.committed]


async def test_process_gives_signs_of_life_while_it_waits_to_give_users_away(
    database: Database,
) -> None:
    async with open_writers(database) as cluster, trio.open_nursery() as nursery:
        user_id = cluster.user_of(TO_DEVICE, "one")
        table = keeper_of(cluster.first).table
        assert await keeper_of(cluster.first)._sign_of_life()
        with table.calling(TO_DEVICE.name, [user_id]):
            nursery.start_soon(give, TO_DEVICE, cluster.first, cluster.second)
            query = "SELECT CASE WHEN beat > 4 THEN instance END FROM process_beats WHERE life = '"
            await wait_until_stored(database, f"{query}{keeper_of(cluster.first).life}'", "one")

    assert not table.held(TO_DEVICE.name)


async def test_device_that_was_created_again_gets_messages_of_an_owner_that_knew_the_old_one(
    database: Database,
) -> None:
    async with open_writers(database) as cluster:
        user_id = cluster.user_of(TO_DEVICE, "one")
        sessions = cluster.main.services.core.sessions.sessions
        await open_device(cluster.main, user_id)
        await send_to(cluster.main, 1, user_id)
        await give_all(cluster.first, cluster.second)
        await sessions.remove_devices(user_id, ["DEVICE"])
        await open_device(cluster.main, user_id)
        await give_all(cluster.second, cluster.first)

        await send_to(cluster.main, 2, user_id)

        assert numbers_in(await cluster.second.sync(user_id)) == [2]


async def test_users_who_type_vanish_when_another_process_takes_over_and_may_type_again(
    database: Database,
) -> None:
    async with open_writers(database) as cluster:
        room_id = await cluster.room_of(TYPING, "one", BOB)
        since = (await cluster.main.sync(ALICE))["next_batch"]
        await cluster.main.set_typing(room_id, BOB)
        typing, since = await sync_until(cluster.main, ALICE, since, is_typing_told)
        async with taken_over(cluster):
            ended, since = await sync_until(cluster.main, ALICE, since, is_typing_told)
            await cluster.main.set_typing(room_id, BOB)
            again, _ = await sync_until(cluster.main, ALICE, since, is_typing_told)

        assert [typing_in(each) for each in (typing, ended, again)] == [
            {room_id: [BOB]},
            {room_id: []},
            {room_id: [BOB]},
        ]


async def test_process_that_gets_rooms_back_does_not_say_who_typed_in_them_before(
    database: Database,
) -> None:
    async with open_writers(database) as cluster:
        room_id = await cluster.room_of(TYPING, "one", BOB)
        user_id = cluster.user_of(PRESENCE, "one")
        await cluster.main.set_typing(room_id, BOB)
        await cluster.main.set_presence(user_id, "online")
        await give_all(cluster.first, cluster.second)
        await cluster.main.set_presence(user_id, "offline")
        await give_all(cluster.second, cluster.first)

        streams: tuple[StreamDef[Any], ...] = (TYPING, PRESENCE)
        rows = [
            row
            for stream in streams
            for _, row in cluster.first.process.base.memory(stream).since(0).rows
        ]

    assert rows == []


async def test_typing_that_no_process_saw_ends_as_it_is_stored(database: Database) -> None:
    async with open_writers(database) as cluster:
        room_id = await cluster.room_of(TYPING, "one", BOB)
        await cluster.main.set_typing(room_id, BOB)
        async with cluster.first.process.duties("typing"):
            stored = "SELECT room_id FROM typing_rooms"
            await wait_until_stored(database, stored, room_id)
        shown = cluster.second.services.ephemeral.typing_users
        shown._rooms.clear()
        rows: list[Any] = []
        cluster.main.world.feed.subscribe(TYPING, lambda batch: rows.extend(batch.rows))

        async with cluster.second.process.duties("typing"), taken_over(cluster):
            await wait_until(lambda: bool(rows))

        assert {(row.room_id, row.user_ids) for _, row in rows} == {(room_id, ())}


async def wait_until_stored(database: Database, query: str, expected: str) -> None:
    """Wait until a query returns one value."""

    async def read(tx: Any) -> str | None:
        value: str | None = await tx.fetchval(query)
        return value

    with trio.fail_after(WAIT_S):
        while await database.read(read) != expected:  # noqa: ASYNC110 - of another task
            await trio.sleep(0.01)


async def test_syncing_users_stay_online_when_another_process_takes_over(
    database: Database,
) -> None:
    clock = FixedClock()
    async with open_writers(database, clock=clock) as cluster:
        user_id = cluster.user_of(PRESENCE, "one")
        presence = cluster.main.services.ephemeral.presence
        await cluster.main.world.create_room(ALICE, join=[user_id])
        since = (await cluster.main.sync(ALICE, set_presence="offline"))["next_batch"]
        with presence.syncing(user_id, "PHONE", "online"):
            await presence.devices.flush()
            await local_writer(cluster.first, "one").save()
            async with cluster.second.process.duties("presence"), taken_over(cluster):
                writer = local_writer(cluster.second, "two")
                await wait_until(lambda: writer.users_in_memory == 1)
                for _ in range(8):
                    clock.advance(KEEPALIVE_EVERY_MS)
                    await presence.devices.flush()
                    await presence.devices.flush()
                    writer.expire()
                responses, _ = await sync_until(
                    cluster.main,
                    ALICE,
                    since,
                    lambda some: user_id in presence_in(some),
                )
                shown = await cluster.main.presence_of(user_id)

        assert presence_in(responses)[user_id] in ("online", "unavailable")
        assert shown in ("online", "unavailable")


async def test_process_gives_users_away_after_their_presence_was_stored(
    database: Database,
) -> None:
    # The duty that stores presence ends before a process that stops gives its slots away.
    async with open_writers(database) as cluster:
        user_id = cluster.user_of(PRESENCE, "one")
        await cluster.main.set_presence(user_id, "unavailable")

        await give_all(cluster.first, cluster.second)

        assert cluster.owner(PRESENCE, user_id) == "two"
        assert await cluster.main.presence_of(user_id) == "unavailable"
        assert local_writer(cluster.first, "one").users_in_memory == 0


async def test_process_without_signs_of_life_writes_nothing_to_memory_streams(
    database: Database,
) -> None:
    async with open_writers(database) as cluster:
        room_id = await cluster.room_of(TYPING, "one", BOB)
        user_id = cluster.user_of(PRESENCE, "one")
        rows: list[Any] = []
        feed: Any = cluster.first.world.feed
        for stream in (TYPING, PRESENCE):
            feed.subscribe(stream, lambda batch: rows.extend(batch.rows))
        # As after a stop of the process: it holds its slots by what it knows.
        keeper_of(cluster.first).table.trusted_until = trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.first.set_typing, room_id, BOB)
            nursery.start_soon(cluster.first.set_presence, user_id, "online")
            await trio.testing.wait_all_tasks_blocked(0.1)
            refused = list(rows)
            keeper_of(cluster.first).table.trusted_until = math.inf

        assert refused == []
        assert {row for _, row in rows} >= {TypingRow(room_id, (BOB,))}
