"""Where messages to devices went before."""

from typing import Any

import pytest

from hs.repl.streams import TO_DEVICE
from hs.repl.writers import WriterReplaced
from hs.services.devices.inbox_addresses import MAX_OF_USER, DeviceAddresses
from hs.storage import stream_log
from hs.storage.database import Database
from hs.storage.devices import devices, to_device
from tests.support.counting import Count, CountingDatabase
from tests.support.devices import Process, open_devices
from tests.support.rooms import ALICE, BOB

PHONE, TABLET = (ALICE, "PHONE"), (ALICE, "TABLET")


def learned(found: dict[str, dict[str, int]]) -> DeviceAddresses:
    addresses = DeviceAddresses()
    addresses.learn(found, addresses.known([]))
    return addresses


def test_devices_are_known_once_they_were_found() -> None:
    addresses = learned({ALICE: {"PHONE": 1, "TABLET": 2}})

    known = addresses.known([TABLET, PHONE])
    strangers = [TABLET, ("@stranger:hs.test", "PHONE"), (ALICE, "OTHER"), (ALICE, "*")]

    assert (known.inboxes, addresses.is_certain(known)) == ([2, 1], True)
    assert addresses.known(strangers).inboxes == [2, None, None, None]


def test_nothing_is_certain_while_and_after_somebody_is_forgotten() -> None:
    addresses = learned({ALICE: {"PHONE": 1}, BOB: {"PHONE": 2}})
    before = addresses.known([PHONE])

    with addresses.forgetting(ALICE):
        meanwhile = addresses.known([PHONE])
        certain = [addresses.is_certain(one) for one in (before, meanwhile)]
    after = addresses.known([PHONE, (BOB, "PHONE")])

    assert certain == [False, False]
    assert [addresses.is_certain(one) for one in (before, meanwhile, after)] == [False, False, True]
    assert after.inboxes == [None, 2]


def test_what_was_asked_before_or_while_somebody_is_forgotten_is_not_learned() -> None:
    addresses = DeviceAddresses()
    before = addresses.known([PHONE])
    with addresses.forgetting(BOB):
        meanwhile = addresses.known([PHONE])
        addresses.learn({ALICE: {"PHONE": 1}}, meanwhile)

    for asked in (before, meanwhile):
        addresses.learn({ALICE: {"PHONE": 1}}, asked)

    assert addresses.known([PHONE]).inboxes == [None]


def test_a_device_called_as_all_of_them_does_not_get_their_messages_alone() -> None:
    addresses = learned({ALICE: {"*": 1, "PHONE": 2}})

    assert addresses.known([(ALICE, "*")]).inboxes == [None]


def test_of_a_user_with_very_many_devices_none_are_remembered() -> None:
    many = {f"D{n}": n for n in range(MAX_OF_USER + 1)}

    addresses = learned({ALICE: many, BOB: {"PHONE": 2}})

    assert addresses.known([(ALICE, "D0"), (BOB, "PHONE")]).inboxes == [None, 2]


async def test_the_next_message_to_many_looks_for_none_of_their_devices(database: Database) -> None:
    count = Count()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        phone = await server.device(ALICE, "PHONE")
        await server.device(ALICE, "TABLET")
        asked = []
        for txn_id in ("1", "2"):
            count.statements.clear()
            await server.send(phone, txn_id, {ALICE: {"PHONE": {}, "TABLET": {}}})
            asked.append([one for one in count.statements if "devices" in one])

    assert len(asked[0]) == 1
    assert asked[1] == []


async def replaced(database: Database) -> None:
    async with open_devices(database) as server:
        await server.device(ALICE, "PHONE")
        await database.write(devices.delete, ALICE, ["PHONE"])
        await database.write(stream_log.take_over, TO_DEVICE.name, "main", "another life")
        await server.inboxes.forget(ALICE, [])


async def test_what_a_replaced_writer_forgets_is_not_forgotten(database: Database) -> None:
    with pytest.raises(ExceptionGroup) as ended:
        await replaced(database)

    assert ended.group_contains(WriterReplaced)
    assert await database.read(to_device.closed, 1) == [ALICE]


async def test_a_device_that_comes_back_gets_its_messages_at_every_moment(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(ALICE, "TABLET")
    since = ""
    got = []

    async def send(content: int) -> None:
        nonlocal since
        message = {ALICE: {"PHONE": {"n": content}, "TABLET": {}}}
        await server.send(phone, f"t{content}", message)
        answer = await server.sync(ALICE, "PHONE", since or None)
        since = answer["next_batch"]
        got.extend([one["content"]["n"] for one in answer.get("to_device", {}).get("events", [])])

    await send(1)
    await send(2)
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])
    since = ""
    await server.device(ALICE, "PHONE")
    await send(3)
    # Whoever deleted it tells the writer only now.
    await server.inboxes.forget(ALICE, [])
    await send(4)
    await send(5)
    await server.log_out(ALICE, "PHONE")
    since = ""
    await server.device(ALICE, "PHONE")
    await send(6)

    assert got == [1, 2, 3, 4, 5, 6]
