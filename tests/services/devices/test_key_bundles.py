"""Bundles of to-device messages: the same messages are read before and after unpacking."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.ids import UserID
from hs.core.streams import TO_DEVICE
from hs.services.devices import inbox_writer
from hs.services.devices.inbox_addresses import DeviceAddress
from hs.services.devices.inbox_writer import ToDeviceRequest
from hs.services.devices.inboxes import InboxReader
from hs.storage.database import Tx
from hs.storage.devices import inbox_reads, to_device
from tests.support.devices import Process
from tests.support.rooms import ALICE, BOB

FOREVER = 2**62
TABLET = 4
"""The index of Bob's tablet among the devices."""


class Crowd:
    """Alice's phones and Bob's tablet, and requests that send messages to all of them."""

    def __init__(self, server: Process) -> None:
        self.server = server
        self.sent = 0
        self.devices = [f"PHONE{n}" for n in range(inbox_writer.MIN_BUNDLED - 1)]
        self.devices.insert(TABLET, "TABLET")

    def owner(self, device_id: str) -> UserID:
        return BOB if device_id == "TABLET" else ALICE

    async def log_in(self) -> None:
        for device_id in self.devices:
            await self.server.device(self.owner(device_id), device_id)

    async def send(self, body: str) -> int:
        """Send an individual message to each device; return the stream number."""
        self.sent += 1
        request = ToDeviceRequest(ALICE, "PHONE", "m.test", f"t{self.sent}")
        devices: list[DeviceAddress] = [
            (self.owner(device_id), device_id) for device_id in self.devices
        ]
        messages = [f"{body} to {device_id}".encode() for device_id in self.devices]
        await self.server.inboxes.send(request, b"", devices, messages)
        return self.server.world.feed.position(TO_DEVICE).most()

    async def stored(self) -> list[list[str]]:
        """Return the pending messages of each device."""
        stored = []
        for device_id in self.devices:
            pending = await self.server.world.database.read(
                to_device.pending_messages, self.owner(device_id), device_id, 0, FOREVER, 10_000
            )
            stored.append([message.decode() for _, message in pending])
        return stored

    def all(self, *bodies: str) -> list[list[str]]:
        """Return the pending messages of each device after these bodies were sent."""
        return [[f"{body} to {device_id}" for body in bodies] for device_id in self.devices]

    async def counted(self) -> tuple[int, int]:
        """Return the numbers of bundles and of single messages in the database."""

        async def count(tx: Tx) -> tuple[int, int]:
            bundles = await tx.fetchval("SELECT count(*) FROM inbox_bundles")
            return bundles, await tx.fetchval("SELECT count(*) FROM inbox_messages")

        return await self.server.world.database.read(count)


async def received(server: Process, inboxes: InboxReader) -> list[str]:
    """Return the messages that Bob's tablet receives."""
    upto = server.world.feed.position(TO_DEVICE).most()
    messages, _ = await inboxes.messages(BOB, "TABLET", 0, upto, upto)
    return [message.decode() for message in messages]


@pytest.fixture
async def crowd(server: Process) -> Crowd:
    """Enough logged-in devices for a bundle."""
    crowd = Crowd(server)
    await crowd.log_in()
    return crowd


async def test_message_to_many_devices_is_a_bundle_until_unpacked(crowd: Crowd) -> None:
    first = await crowd.send("1")
    await crowd.send("2")
    before = (await crowd.stored(), await crowd.counted())

    await crowd.server.filer.unpack(first)

    assert before == (crowd.all("1", "2"), (2, 0))
    assert (await crowd.stored(), await crowd.counted()) == (crowd.all("1", "2"), (1, 10))
    await crowd.server.filer.unpack(FOREVER)
    assert (await crowd.stored(), await crowd.counted()) == (crowd.all("1", "2"), (0, 20))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_acknowledged_message_is_deleted_before_and_after_unpacking(
    crowd: Crowd, when: str
) -> None:
    server = crowd.server
    inboxes = InboxReader(server.world.database, server.world.feed)
    first = await crowd.send("1")
    await crowd.send("2")
    await received(server, inboxes)
    if when == "after":
        await server.filer.unpack(FOREVER)
    await inboxes.acknowledge(BOB, "TABLET", first)
    await server.filer.unpack(FOREVER)
    await inboxes.delete()

    restarted = InboxReader(server.world.database, server.world.feed)

    assert await crowd.counted() == (0, 19)
    assert await received(server, restarted) == ["2 to TABLET"]
    assert sum(map(len, await crowd.stored())) == 19


async def test_message_acknowledged_during_unpacking_is_not_returned(
    crowd: Crowd,
) -> None:
    server = crowd.server
    inboxes = InboxReader(server.world.database, server.world.feed, is_alone=True)
    number = await crowd.send("1")
    await received(server, inboxes)
    await server.filer.unpack(FOREVER)
    # As if the message had been unpacked by a transaction that did not see the acknowledgement.
    await server.world.database.write(inbox_reads.record_reads, [(BOB, "TABLET", number)])

    restarted = InboxReader(server.world.database, server.world.feed)

    assert (await crowd.stored())[TABLET] == []
    assert await received(server, restarted) == []


async def test_messages_to_deleted_devices_are_not_unpacked(crowd: Crowd) -> None:
    await crowd.send("1")
    await crowd.server.log_out(BOB, "TABLET")
    await crowd.server.device(BOB, "TABLET")

    await crowd.server.filer.unpack(FOREVER)

    assert await crowd.counted() == (0, 9)
    assert (await crowd.stored())[TABLET] == []


async def test_bundles_are_unpacked_in_batches(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "MAX_FILED_AT_ONCE", 25)
    for n in range(7):
        await crowd.send(f"{n}")
    batches = []

    while count := await crowd.server.world.database.write(to_device.file_bundles, FOREVER):
        batches.append(count)

    assert batches == [20, 20, 20, 10]
    assert await crowd.stored() == crowd.all(*[f"{n}" for n in range(7)])


async def test_bundle_above_the_batch_size_is_unpacked_alone(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "MAX_FILED_AT_ONCE", 3)
    await crowd.send("1")

    await crowd.server.filer.unpack(FOREVER)

    assert await crowd.counted() == (0, 10)


async def test_many_messages_in_bundles_cause_unpacking(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MANY_MESSAGES", 20)
    monkeypatch.setattr(inbox_writer, "UNPACK_AFTER_S", 3600.0)
    await crowd.send("0")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.server.filer.run)
        await wait_all_tasks_blocked()
        await crowd.send("1")
        await crowd.send("2")
        with trio.fail_after(60):
            while (await crowd.counted())[0] != 2:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    # The bundles that were sent after the start of the run are unpacked later.
    assert await crowd.counted() == (2, 10)


async def test_messages_are_bundled_only_below_the_limit(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MAX_BUNDLED", 15)
    for n in range(3):
        await crowd.send(f"{n}")
    counted_before = await crowd.counted()
    await crowd.server.filer.unpack(FOREVER)
    # The last messages are counted as bundled until the next run.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.server.filer.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await crowd.server.filer.unpack(FOREVER)
    await crowd.send("3")

    assert counted_before == (2, 10)
    assert await crowd.counted() == (1, 30)
    assert await crowd.stored() == crowd.all("0", "1", "2", "3")


async def test_messages_that_are_not_carried_are_not_bundled(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MAX_CARRIED_BYTES", 100)

    await crowd.send("1")

    assert await crowd.counted() == (0, 10)
    assert await crowd.stored() == crowd.all("1")


async def test_pages_continue_from_unpacked_messages_to_bundles(crowd: Crowd) -> None:
    numbers = [await crowd.send(f"{n}") for n in range(6)]
    await crowd.server.filer.unpack(numbers[3])
    pages: list[list[bytes]] = []
    after = 0
    for _ in range(4):
        page = await crowd.server.world.database.read(
            to_device.pending_messages, BOB, "TABLET", after, FOREVER, 2
        )
        pages.append([message for _, message in page])
        after = page[-1][0] if page else after

    assert pages == [
        [b"0 to TABLET", b"1 to TABLET"],
        [b"2 to TABLET", b"3 to TABLET"],
        [b"4 to TABLET", b"5 to TABLET"],
        [],
    ]


async def test_leftover_messages_are_deleted_by_the_cleanup(crowd: Crowd) -> None:
    server = crowd.server
    first = await crowd.send("1")
    await crowd.send("2")
    await server.filer.unpack(FOREVER)
    await server.world.database.write(inbox_reads.record_reads, [(BOB, "TABLET", first)])

    async def delete_phone(tx: Tx) -> None:
        await tx.execute("DELETE FROM devices WHERE device_id = 'PHONE0'")

    await server.world.database.write(delete_phone)

    await server.clean_up()

    assert await crowd.counted() == (0, 17)
    assert (await crowd.stored())[TABLET] == ["2 to TABLET"]


async def test_devices_with_messages_are_found_before_and_after_unpacking(crowd: Crowd) -> None:
    database, server = crowd.server.world.database, crowd.server
    await server.device(BOB, "IDLE")
    first = await crowd.send("1")
    bundled = await database.read(to_device.devices_with_messages)
    await server.filer.unpack(FOREVER)
    unpacked = await database.read(to_device.devices_with_messages)
    await database.write(inbox_reads.record_reads, [(BOB, "TABLET", first)])

    all_devices = {(crowd.owner(device_id), device_id) for device_id in crowd.devices}
    assert {*bundled} == {*unpacked} == all_devices
    remaining = {*await database.read(to_device.devices_with_messages)}
    assert remaining == all_devices - {(BOB, "TABLET")}
