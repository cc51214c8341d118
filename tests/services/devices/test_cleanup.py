"""The cleanup of device data, and the database reads of idle devices."""

from typing import Any

import pytest

from hs.services.devices import device_updates
from hs.services.devices.device_list_writer import NewSignature
from hs.services.devices.device_updates import CHANGE_RETENTION_MS, REQUEST_RETENTION_MS
from hs.storage.database import Database, Tx
from hs.storage.devices import device_lists, devices
from tests.support.devices import Process, one_time_keys, open_devices, plain_keys
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sql.counting import CountingDatabase, QueryCount


async def row_counts(tx: Tx, tables: tuple[str, ...]) -> list[int]:
    return [await tx.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


async def test_interrupted_device_removal_is_completed(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(
        phone, device_keys=plain_keys(ALICE, "PHONE"), one_time_keys=one_time_keys(1)
    )
    await server.send(phone, "t", {ALICE: {"PHONE": {}}})
    # As if the process had died before the watcher was notified.
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    await server.clean_up()

    tables = ("device_keys", "one_time_keys", "inbox_messages", "closed_inboxes")
    assert await server.world.database.read(row_counts, tables) == [0, 0, 0, 0]


async def test_one_time_keys_without_identity_keys_are_deleted_with_the_device(
    server: Process,
) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1), fallback_keys=one_time_keys(2))
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    await server.clean_up()

    tables = ("one_time_keys", "fallback_keys")
    assert await server.world.database.read(row_counts, tables) == [0, 0]


async def test_messages_are_deleted_with_one_device_and_with_all_devices(server: Process) -> None:
    for user_id, device_ids in ((ALICE, ("A", "B")), (BOB, ("C",))):
        for device_id in device_ids:
            token = await server.device(user_id, device_id)
            await server.send(token, device_id, {user_id: {device_id: {}}})
    counts = []

    await server.log_out(ALICE, "A")
    counts.append(
        await server.world.database.read(row_counts, ("inbox_messages", "closed_inboxes"))
    )
    removed_ids, _ = await server.world.database.write(devices.delete_all, ALICE)
    await server.updates.devices_removed(ALICE, removed_ids)
    counts.append(
        await server.world.database.read(row_counts, ("inbox_messages", "closed_inboxes"))
    )

    assert counts == [[2, 0], [1, 0]]
    assert removed_ids == ["B"]


async def test_recreated_device_has_a_new_inbox(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.send(phone, "old", {ALICE: {"PHONE": {}}})
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    phone = await server.device(ALICE, "PHONE")
    first_sync = await server.sync(ALICE, "PHONE")
    await server.send(phone, "new", {ALICE: {"PHONE": {"n": 1}}})
    await server.clean_up()
    answer = await server.sync(ALICE, "PHONE", first_sync["next_batch"])

    assert "to_device" not in first_sync
    assert [event["content"] for event in answer["to_device"]["events"]] == [{"n": 1}]


async def test_old_changes_are_deleted_except_the_latest_of_each_user(server: Process) -> None:
    for device_id in ("A", "B", "C"):
        await server.device(BOB, device_id)

    server.world.clock.advance(CHANGE_RETENTION_MS + 1)
    await server.clean_up()

    async def remaining(tx: Tx) -> tuple[int, list[str]]:
        count = await tx.fetchval("SELECT count(*) FROM device_list_changes")
        return count, await device_lists.changed_users(tx, 0, 2**62)

    assert await server.world.database.read(remaining) == (1, [BOB])


async def test_latest_signature_on_each_users_keys_is_kept(server: Process) -> None:
    for target, count in ((BOB, 2), (CAROL, 1)):
        for n in range(count):
            signature = NewSignature(target, "key", f"ed25519:{n}", "signature")
            await server.lists.put_signatures(ALICE, [signature])

    server.world.clock.advance(CHANGE_RETENTION_MS + 1)
    await server.clean_up()

    async def remaining(tx: Tx) -> tuple[int, set[str]]:
        row_count = await tx.fetchval(
            "SELECT count(*) FROM device_list_changes WHERE is_private = 1"
        )
        return row_count, {*await device_lists.signed_users(tx, 0, 2**62, ALICE)}

    assert await server.world.database.read(remaining) == (2, {BOB, CAROL})


async def test_repeated_request_is_recognised_for_a_day(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    messages: dict[str, Any] = {ALICE: {"PHONE": {}}}

    async def send() -> int:
        await server.send(phone, "t", messages)
        response = await server.sync(ALICE, "PHONE")
        return len(response["to_device"]["events"])

    counts = [await send(), await send()]
    server.world.clock.advance(REQUEST_RETENTION_MS + 1)
    await server.clean_up()

    assert [*counts, await send()] == [1, 1, 2]


async def test_sync_without_messages_does_not_read_the_database(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        await server.world.create_room(ALICE, join=[BOB])
        phone = await server.device(ALICE, "PHONE")
        await server.device(BOB, "TABLET")
        since = (await server.sync(BOB, "TABLET"))["next_batch"]
        await server.send(phone, "t", {ALICE: {"PHONE": {}}})
        since = (await server.sync(BOB, "TABLET", since))["next_batch"]
        reads_before = count.reads

        await server.sync(BOB, "TABLET", since)
        await server.send(phone, "u", {ALICE: {"PHONE": {}}})
        await server.sync(BOB, "TABLET", since)

        assert count.reads == reads_before


async def test_owner_reads_the_keys_of_a_user_once(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        phone = await server.device(ALICE, "PHONE")
        await server.upload(phone, device_keys=plain_keys(ALICE, "PHONE"))
        response = await server.query(phone, ALICE)
        reads_before = count.reads

        assert await server.query(phone, ALICE) == response
        assert count.reads == reads_before


async def test_oldest_messages_of_a_full_inbox_are_deleted(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_updates, "MAX_PENDING", 3)
    monkeypatch.setattr(device_updates, "ORPHAN_BATCH", 2)
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    for n in range(8):
        await server.send(phone, f"t{n}", {ALICE: {"PHONE": {"n": n}}})
    for n in range(3):
        await server.send(phone, f"b{n}", {BOB: {"TABLET": {"n": n}}})

    await server.clean_up()

    own = (await server.sync(ALICE, "PHONE"))["to_device"]["events"]
    of_bob = (await server.sync(BOB, "TABLET"))["to_device"]["events"]
    assert [event["content"]["n"] for event in own] == [5, 6, 7]
    assert [event["content"]["n"] for event in of_bob] == [0, 1, 2]


async def test_oldest_requests_of_a_device_are_forgotten(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_updates, "MAX_REQUESTS", 3)
    monkeypatch.setattr(device_updates, "ORPHAN_BATCH", 2)
    phone = await server.device(ALICE, "PHONE")
    tablet = await server.device(BOB, "TABLET")
    for n in range(8):
        server.world.clock.advance(1)
        await server.send(phone, f"t{n}", {ALICE: {"PHONE": {}}})
    await server.send(tablet, "t0", {ALICE: {"PHONE": {}}})

    await server.clean_up()

    assert await server.world.database.read(request_ids) == ["t0", "t5", "t6", "t7"]


async def request_ids(tx: Tx) -> list[str]:
    return sorted(row[0] for row in await tx.fetch("SELECT txn_id FROM to_device_requests"))
