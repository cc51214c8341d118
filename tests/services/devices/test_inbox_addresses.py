"""The cache of device inboxes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.streams import TO_DEVICE
from hs.repl.generations import WriterReplaced
from hs.services.devices.inbox_addresses import MAX_DEVICES_PER_USER, InboxAddressCache
from hs.storage import stream_log
from hs.storage.database import Database
from hs.storage.devices import devices, to_device
from tests.support.composition import SETTINGS, worker_settings
from tests.support.devices import Process, open_devices
from tests.support.rooms import ALICE, BOB
from tests.support.sql.counting import CountingDatabase, QueryCount

PHONE, TABLET = (ALICE, "PHONE"), (ALICE, "TABLET")


def cache_with(user_devices: dict[str, dict[str, int]]) -> InboxAddressCache:
    addresses = InboxAddressCache()
    addresses.store(user_devices, addresses.lookup([]))
    return addresses


def test_stored_devices_are_found() -> None:
    addresses = cache_with({ALICE: {"PHONE": 1, "TABLET": 2}})

    lookup = addresses.lookup([TABLET, PHONE])
    unknown_devices = [TABLET, ("@stranger:hs.test", "PHONE"), (ALICE, "OTHER"), (ALICE, "*")]

    assert (lookup.inboxes, addresses.is_current(lookup)) == ([2, 1], True)
    assert addresses.lookup(unknown_devices).inboxes == [2, None, None, None]


def test_lookups_are_not_current_during_and_after_an_invalidation() -> None:
    addresses = cache_with({ALICE: {"PHONE": 1}, BOB: {"PHONE": 2}})
    before = addresses.lookup([PHONE])

    with addresses.invalidating(ALICE):
        during = addresses.lookup([PHONE])
        current = [addresses.is_current(lookup) for lookup in (before, during)]
    after = addresses.lookup([PHONE, (BOB, "PHONE")])

    assert current == [False, False]
    assert [addresses.is_current(lookup) for lookup in (before, during, after)] == [
        False,
        False,
        True,
    ]
    assert after.inboxes == [None, 2]


def test_devices_read_before_or_during_an_invalidation_are_not_stored() -> None:
    addresses = InboxAddressCache()
    before = addresses.lookup([PHONE])
    with addresses.invalidating(BOB):
        during = addresses.lookup([PHONE])
        addresses.store({ALICE: {"PHONE": 1}}, during)

    for lookup in (before, during):
        addresses.store({ALICE: {"PHONE": 1}}, lookup)

    assert addresses.lookup([PHONE]).inboxes == [None]


def test_device_with_the_id_star_is_not_cached() -> None:
    addresses = cache_with({ALICE: {"*": 1, "PHONE": 2}})

    assert addresses.lookup([(ALICE, "*")]).inboxes == [None]


def test_users_with_very_many_devices_are_not_cached() -> None:
    devices = {f"D{n}": n for n in range(MAX_DEVICES_PER_USER + 1)}

    addresses = cache_with({ALICE: devices, BOB: {"PHONE": 2}})

    assert addresses.lookup([(ALICE, "D0"), (BOB, "PHONE")]).inboxes == [None, 2]


async def test_second_message_to_several_devices_does_not_read_devices(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        phone = await server.device(ALICE, "PHONE")
        await server.device(ALICE, "TABLET")
        device_statements = []
        for txn_id in ("1", "2"):
            count.statements.clear()
            await server.send(phone, txn_id, {ALICE: {"PHONE": {}, "TABLET": {}}})
            device_statements.append(
                [statement for statement in count.statements if "devices" in statement]
            )

    assert len(device_statements[0]) == 1
    assert device_statements[1] == []


async def delete_device_with_replaced_writer(database: Database) -> None:
    async with open_devices(database) as server:
        await server.device(ALICE, "PHONE")
        await database.write(devices.delete, ALICE, ["PHONE"])
        await database.write(stream_log.take_over, TO_DEVICE.name, "main", "another life")
        await server.inboxes.forget(ALICE, [])


async def test_forget_of_a_replaced_writer_is_not_committed(database: Database) -> None:
    with pytest.raises(ExceptionGroup) as error:
        await delete_device_with_replaced_writer(database)

    assert error.group_contains(WriterReplaced)
    assert await database.read(to_device.users_with_closed_inboxes, 1) == [ALICE]


@pytest.fixture(
    params=[SETTINGS, worker_settings(SETTINGS, "main", "another")], ids=["alone", "shared"]
)
async def server(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Process]:
    """The only process, and one of several."""
    async with open_devices(database, request.param) as opened:
        yield opened


async def test_recreated_device_receives_messages_at_every_stage(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(ALICE, "TABLET")
    since = ""
    received = []

    async def send(content: int) -> None:
        nonlocal since
        message = {ALICE: {"PHONE": {"n": content}, "TABLET": {}}}
        await server.send(phone, f"t{content}", message)
        answer = await server.sync(ALICE, "PHONE", since or None)
        since = answer["next_batch"]
        received.extend(
            [event["content"]["n"] for event in answer.get("to_device", {}).get("events", [])]
        )

    await send(1)
    await send(2)
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])
    since = ""
    await server.device(ALICE, "PHONE")
    await send(3)
    # The deletion is announced to the writer only now.
    await server.inboxes.forget(ALICE, [])
    await send(4)
    await send(5)
    await server.log_out(ALICE, "PHONE")
    since = ""
    await server.device(ALICE, "PHONE")
    await send(6)

    assert received == [1, 2, 3, 4, 5, 6]
