"""Messages to many devices: the same while they lie together as when they are filed."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.ids import UserID
from hs.repl.streams import TO_DEVICE
from hs.services.devices import inbox_writer
from hs.services.devices.inbox_addresses import Device
from hs.services.devices.inbox_writer import Request
from hs.services.devices.inboxes import Inboxes
from hs.storage.database import Tx
from hs.storage.devices import inbox_reads, to_device
from tests.support.devices import Process
from tests.support.rooms import ALICE, BOB

FOREVER = 2**62
TABLET = 4
"""The place of Bob's tablet between Alice's phones."""


class Crowd:
    """Alice's phones, Bob's tablet between them; a request to all of them."""

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
        """Send everybody a message of their own; give its number."""
        self.sent += 1
        request = Request(ALICE, "PHONE", "m.test", f"t{self.sent}")
        devices: list[Device] = [(self.owner(one), one) for one in self.devices]
        messages = [f"{body} to {device_id}".encode() for device_id in self.devices]
        await self.server.inboxes.send(request, b"", devices, messages)
        return self.server.world.feed.position(TO_DEVICE).most()

    async def stored(self) -> list[list[str]]:
        """Give what waits for each device."""
        found = []
        for device_id in self.devices:
            waiting = await self.server.world.database.read(
                to_device.pending, self.owner(device_id), device_id, 0, FOREVER, 10_000
            )
            found.append([message.decode() for _, message in waiting])
        return found

    def all(self, *bodies: str) -> list[list[str]]:
        """Give what waits for each device if it got these."""
        return [[f"{body} to {device_id}" for body in bodies] for device_id in self.devices]

    async def counted(self) -> tuple[int, int]:
        """Count the rows of bundles, and of single messages."""

        async def count(tx: Tx) -> tuple[int, int]:
            bundles = await tx.fetchval("SELECT count(*) FROM inbox_bundles")
            return bundles, await tx.fetchval("SELECT count(*) FROM inbox_messages")

        return await self.server.world.database.read(count)


async def given(server: Process, inboxes: Inboxes) -> list[str]:
    """Give what Bob's tablet gets."""
    upto = server.world.feed.position(TO_DEVICE).most()
    found, _ = await inboxes.messages(BOB, "TABLET", 0, upto, upto)
    return [message.decode() for message in found]


@pytest.fixture
async def crowd(server: Process) -> Crowd:
    """Devices enough for a bundle, logged in."""
    made = Crowd(server)
    await made.log_in()
    return made


async def test_a_message_to_many_devices_lies_together_until_it_is_filed(crowd: Crowd) -> None:
    first = await crowd.send("1")
    await crowd.send("2")
    before = (await crowd.stored(), await crowd.counted())

    await crowd.server.filer.file(first)

    assert before == (crowd.all("1", "2"), (2, 0))
    assert (await crowd.stored(), await crowd.counted()) == (crowd.all("1", "2"), (1, 10))
    await crowd.server.filer.file(FOREVER)
    assert (await crowd.stored(), await crowd.counted()) == (crowd.all("1", "2"), (0, 20))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_was_acknowledged_is_gone_wherever_it_lies(crowd: Crowd, when: str) -> None:
    server = crowd.server
    inboxes = Inboxes(server.world.database, server.world.feed)
    first = await crowd.send("1")
    await crowd.send("2")
    await given(server, inboxes)
    if when == "after":
        await server.filer.file(FOREVER)
    await inboxes.acknowledge(BOB, "TABLET", first)
    await server.filer.file(FOREVER)
    await inboxes.delete()

    fresh = Inboxes(server.world.database, server.world.feed)

    assert await crowd.counted() == (0, 19)
    assert await given(server, fresh) == ["2 to TABLET"]
    assert sum(map(len, await crowd.stored())) == 19


async def test_what_was_acknowledged_while_it_was_filed_is_not_given_again(
    crowd: Crowd,
) -> None:
    server = crowd.server
    inboxes = Inboxes(server.world.database, server.world.feed, is_alone=True)
    number = await crowd.send("1")
    await given(server, inboxes)
    await server.filer.file(FOREVER)
    # As if it had been written by a transaction that saw no acknowledgement.
    await server.world.database.write(inbox_reads.mark, [(BOB, "TABLET", number)])

    fresh = Inboxes(server.world.database, server.world.feed)

    assert (await crowd.stored())[TABLET] == []
    assert await given(server, fresh) == []


async def test_messages_to_devices_that_are_gone_are_not_filed(crowd: Crowd) -> None:
    await crowd.send("1")
    await crowd.server.log_out(BOB, "TABLET")
    await crowd.server.device(BOB, "TABLET")

    await crowd.server.filer.file(FOREVER)

    assert await crowd.counted() == (0, 9)
    assert (await crowd.stored())[TABLET] == []


async def test_many_bundles_are_filed_a_few_at_a_time(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "MAX_FILED_AT_ONCE", 25)
    for n in range(7):
        await crowd.send(f"{n}")
    filed = []

    while count := await crowd.server.world.database.write(to_device.file_bundles, FOREVER):
        filed.append(count)

    assert filed == [20, 20, 20, 10]
    assert await crowd.stored() == crowd.all(*[f"{n}" for n in range(7)])


async def test_a_bundle_that_is_too_large_is_filed_alone(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "MAX_FILED_AT_ONCE", 3)
    await crowd.send("1")

    await crowd.server.filer.file(FOREVER)

    assert await crowd.counted() == (0, 10)


async def test_bundles_are_filed_once_they_are_many(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MANY_MESSAGES", 20)
    monkeypatch.setattr(inbox_writer, "FILE_AFTER_S", 3600.0)
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

    # Those that came meanwhile have their turn later.
    assert await crowd.counted() == (2, 10)


async def test_messages_lie_together_only_while_there_is_room(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MAX_UNFILED", 15)
    for n in range(3):
        await crowd.send(f"{n}")
    before = await crowd.counted()
    await crowd.server.filer.file(FOREVER)
    # What came last was counted, though it was filed at once.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.server.filer.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await crowd.server.filer.file(FOREVER)
    await crowd.send("3")

    assert before == (2, 10)
    assert await crowd.counted() == (1, 30)
    assert await crowd.stored() == crowd.all("0", "1", "2", "3")


async def test_what_is_not_told_with_the_news_lies_under_each_device_at_once(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MAX_CARRIED_BYTES", 100)

    await crowd.send("1")

    assert await crowd.counted() == (0, 10)
    assert await crowd.stored() == crowd.all("1")


async def test_pages_go_on_from_what_is_filed_to_what_is_not(crowd: Crowd) -> None:
    numbers = [await crowd.send(f"{n}") for n in range(6)]
    await crowd.server.filer.file(numbers[3])
    pages: list[list[bytes]] = []
    after = 0
    for _ in range(4):
        found = await crowd.server.world.database.read(
            to_device.pending, BOB, "TABLET", after, FOREVER, 2
        )
        pages.append([message for _, message in found])
        after = found[-1][0] if found else after

    assert pages == [
        [b"0 to TABLET", b"1 to TABLET"],
        [b"2 to TABLET", b"3 to TABLET"],
        [b"4 to TABLET", b"5 to TABLET"],
        [],
    ]


async def test_leftovers_are_swept_up(crowd: Crowd) -> None:
    server = crowd.server
    first = await crowd.send("1")
    await crowd.send("2")
    await server.filer.file(FOREVER)
    await server.world.database.write(inbox_reads.mark, [(BOB, "TABLET", first)])

    async def lose_a_device(tx: Tx) -> None:
        await tx.execute("DELETE FROM devices WHERE device_id = 'PHONE0'")

    await server.world.database.write(lose_a_device)

    await server.upkeep.tidy()

    assert await crowd.counted() == (0, 17)
    assert (await crowd.stored())[TABLET] == ["2 to TABLET"]


async def test_devices_with_messages_are_found_wherever_those_lie(crowd: Crowd) -> None:
    database, server = crowd.server.world.database, crowd.server
    await server.device(BOB, "IDLE")
    first = await crowd.send("1")
    bundled = await database.read(to_device.devices_with_messages)
    await server.filer.file(FOREVER)
    filed = await database.read(to_device.devices_with_messages)
    await database.write(inbox_reads.mark, [(BOB, "TABLET", first)])

    everybody = {(crowd.owner(one), one) for one in crowd.devices}
    assert {*bundled} == {*filed} == everybody
    left = {*await database.read(to_device.devices_with_messages)}
    assert left == everybody - {(BOB, "TABLET")}
