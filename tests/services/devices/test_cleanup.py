"""What is tidied up, and what an idle device costs."""

from typing import Any

from hs.services.devices.device_list_writer import NewSignature
from hs.services.devices.device_updates import CHANGES_KEPT_MS, REQUESTS_KEPT_MS
from hs.storage.database import Database, Tx
from hs.storage.devices import device_lists, devices
from tests.support.counting import Count, CountingDatabase
from tests.support.devices import Process, one_time_keys, open_devices, plain_keys
from tests.support.rooms import ALICE, BOB, CAROL


async def counted(tx: Tx, tables: tuple[str, ...]) -> list[int]:
    return [await tx.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


async def test_a_removal_that_was_cut_short_is_finished(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(
        phone, device_keys=plain_keys(ALICE, "PHONE"), one_time_keys=one_time_keys(1)
    )
    await server.send(phone, "t", {ALICE: {"PHONE": {}}})
    # As if the process had died before the watcher was told.
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    await server.upkeep.tidy()

    tables = ("device_keys", "one_time_keys", "inbox_messages", "closed_inboxes")
    assert await server.world.database.read(counted, tables) == [0, 0, 0, 0]


async def test_keys_alone_of_a_device_that_is_gone_are_dropped(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1), fallback_keys=one_time_keys(2))
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    await server.upkeep.tidy()

    tables = ("one_time_keys", "fallback_keys")
    assert await server.world.database.read(counted, tables) == [0, 0]


async def test_messages_are_gone_with_their_device_and_with_all_of_a_users(server: Process) -> None:
    for user_id, names in ((ALICE, ("A", "B")), (BOB, ("C",))):
        for name in names:
            token = await server.device(user_id, name)
            await server.send(token, name, {user_id: {name: {}}})
    left = []

    await server.log_out(ALICE, "A")
    left.append(await server.world.database.read(counted, ("inbox_messages", "closed_inboxes")))
    removed, _ = await server.world.database.write(devices.delete_all, ALICE)
    await server.updates.devices_removed(ALICE, removed)
    left.append(await server.world.database.read(counted, ("inbox_messages", "closed_inboxes")))

    assert left == [[2, 0], [1, 0]]
    assert removed == ["B"]


async def test_a_device_that_comes_back_at_once_has_an_inbox_of_its_own(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.send(phone, "old", {ALICE: {"PHONE": {}}})
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    phone = await server.device(ALICE, "PHONE")
    fresh = await server.sync(ALICE, "PHONE")
    await server.send(phone, "new", {ALICE: {"PHONE": {"n": 1}}})
    await server.upkeep.tidy()
    answer = await server.sync(ALICE, "PHONE", fresh["next_batch"])

    assert "to_device" not in fresh
    assert [one["content"] for one in answer["to_device"]["events"]] == [{"n": 1}]


async def test_old_changes_are_forgotten_but_for_the_last_of_each_user(server: Process) -> None:
    for device_id in ("A", "B", "C"):
        await server.device(BOB, device_id)

    server.world.clock.advance(CHANGES_KEPT_MS + 1)
    await server.upkeep.tidy()

    async def left(tx: Tx) -> tuple[int, list[str]]:
        number = await tx.fetchval("SELECT count(*) FROM device_list_changes")
        return number, await device_lists.changed(tx, 0, 2**62)

    assert await server.world.database.read(left) == (1, [BOB])


async def test_the_last_signature_on_each_users_keys_is_never_forgotten(server: Process) -> None:
    for target, count in ((BOB, 2), (CAROL, 1)):
        for n in range(count):
            signature = NewSignature(target, "key", f"ed25519:{n}", "signature")
            await server.lists.put_signatures(ALICE, [signature])

    server.world.clock.advance(CHANGES_KEPT_MS + 1)
    await server.upkeep.tidy()

    async def left(tx: Tx) -> tuple[int, set[str]]:
        number = await tx.fetchval("SELECT count(*) FROM device_list_changes WHERE is_private = 1")
        return number, {*await device_lists.signed(tx, 0, 2**62, ALICE)}

    assert await server.world.database.read(left) == (2, {BOB, CAROL})


async def test_a_request_is_known_for_a_day(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    messages: dict[str, Any] = {ALICE: {"PHONE": {}}}

    async def send() -> int:
        await server.send(phone, "t", messages)
        found = await server.sync(ALICE, "PHONE")
        return len(found["to_device"]["events"])

    counts = [await send(), await send()]
    server.world.clock.advance(REQUESTS_KEPT_MS + 1)
    await server.upkeep.tidy()

    assert [*counts, await send()] == [1, 1, 2]


async def test_a_device_without_news_costs_no_reading(database: Database) -> None:
    count = Count()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        await server.world.create_room(ALICE, join=[BOB])
        phone = await server.device(ALICE, "PHONE")
        await server.device(BOB, "TABLET")
        since = (await server.sync(BOB, "TABLET"))["next_batch"]
        await server.send(phone, "t", {ALICE: {"PHONE": {}}})
        since = (await server.sync(BOB, "TABLET", since))["next_batch"]
        before = count.reads

        await server.sync(BOB, "TABLET", since)
        await server.send(phone, "u", {ALICE: {"PHONE": {}}})
        await server.sync(BOB, "TABLET", since)

        assert count.reads == before


async def test_the_owner_reads_the_keys_of_a_user_once(database: Database) -> None:
    count = Count()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        phone = await server.device(ALICE, "PHONE")
        await server.upload(phone, device_keys=plain_keys(ALICE, "PHONE"))
        first = await server.query(phone, ALICE)
        before = count.reads

        assert await server.query(phone, ALICE) == first
        assert count.reads == before
