"""Device inboxes: the same messages from cache and database, deleted once acknowledged."""

import random

import pytest
import trio

from hs.core.ids import UserID
from hs.core.streams import TO_DEVICE
from hs.services.devices import inbox_writer
from hs.services.devices.inbox_addresses import DeviceAddress
from hs.services.devices.inbox_writer import MAX_CARRIED_BYTES, ToDeviceRequest
from hs.services.devices.inboxes import MAX_LATEST, InboxReader
from hs.storage.devices import to_device
from tests.support.devices import Process
from tests.support.rooms import ALICE, BOB

FOREVER = 2**62


class Counter:
    """A source of transaction IDs."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> str:
        self.count += 1
        return f"t{self.count}"


async def send(server: Process, txn_ids: Counter, *bodies: str, to: UserID = BOB) -> None:
    """Send messages to the tablet in one request; the bodies stand for JSON."""
    request = ToDeviceRequest(ALICE, "PHONE", "m.test", txn_ids.next())
    messages = [body.encode() for body in bodies]
    await server.inboxes.send(request, b"", [(to, "TABLET")] * len(bodies), messages)


async def stored(server: Process, user_id: UserID = BOB) -> list[str]:
    messages = await server.world.database.read(
        to_device.pending_messages, user_id, "TABLET", 0, FOREVER, 10_000
    )
    return [message.decode() for _, message in messages]


async def page(
    server: Process,
    inboxes: InboxReader,
    after: int = 0,
    user_id: UserID = BOB,
    began: int = FOREVER,
) -> tuple[list[str], int]:
    upto = server.world.feed.position(TO_DEVICE).most()
    messages, reached = await inboxes.messages(user_id, "TABLET", after, upto, began)
    return [message.decode() for message in messages], reached


@pytest.fixture
def txn_ids() -> Counter:
    """Transaction IDs."""
    return Counter()


@pytest.fixture
async def inboxes(server: Process) -> InboxReader:
    """Inboxes that delete acknowledged messages only when `delete` is called."""
    await server.device(ALICE, "TABLET")
    await server.device(BOB, "TABLET")
    return server.services.inboxes


def another_reader(server: Process) -> InboxReader:
    """Return a reader as of one of several processes, without anything in memory."""
    return InboxReader(server.world.database, server.world.feed)


async def test_acknowledged_messages_are_not_returned_before_their_deletion(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    await send(server, txn_ids, "1", "2")
    first, reached = await page(server, inboxes)
    await inboxes.acknowledge(BOB, "TABLET", reached)
    await send(server, txn_ids, "3")

    again, _ = await page(server, inboxes)
    before = await stored(server)
    await inboxes.delete()

    assert (first, again, before) == (["1", "2"], ["3"], ["1", "2", "3"])
    assert await stored(server) == ["3"]
    assert (await page(server, inboxes))[0] == ["3"]


async def test_acknowledged_messages_are_deleted_at_shutdown(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    await send(server, txn_ids, "1")
    _, reached = await page(server, inboxes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(inboxes.run)
        await inboxes.acknowledge(BOB, "TABLET", reached)
        nursery.cancel_scope.cancel()

    assert await stored(server) == []


async def test_future_messages_cannot_be_acknowledged(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    await send(server, txn_ids, "1")
    await page(server, inboxes)

    await inboxes.acknowledge(BOB, "TABLET", FOREVER)
    await send(server, txn_ids, "2")
    await inboxes.delete()

    assert await stored(server) == ["2"]
    assert (await page(server, inboxes))[0] == ["2"]


async def test_acknowledged_messages_are_deleted_by_the_duty(
    server: Process, txn_ids: Counter
) -> None:
    database, feed = server.world.database, server.world.feed
    inboxes = InboxReader(database, feed, is_alone=True, delete_after_s=0.01)
    await server.device(BOB, "TABLET")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inboxes.run)
            for body in ("1", "2"):
                await send(server, txn_ids, body)
                _, reached = await page(server, inboxes)
                await inboxes.acknowledge(BOB, "TABLET", reached)
                while await stored(server):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    assert await stored(server) == []


async def test_waiting_device_gets_its_next_messages_from_the_cache(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    await page(server, inboxes)
    began = server.world.feed.position(TO_DEVICE).most()
    await send(server, txn_ids, "1", "2")
    upto = server.world.feed.position(TO_DEVICE).most()
    await server.world.database.write(to_device.delete_upto, [(BOB, "TABLET", upto)])

    assert (await page(server, inboxes, began=began))[0] == ["1", "2"]


async def test_initial_request_does_not_return_messages_acknowledged_to_another_process(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    first_process, second_process = another_reader(server), another_reader(server)
    for inboxes in (first_process, second_process):
        await page(server, inboxes)
    await send(server, txn_ids, "1")
    _, reached = await page(server, first_process)
    await second_process.acknowledge(BOB, "TABLET", reached)

    await send(server, txn_ids, "2")

    assert [
        (await page(server, process_inboxes))[0]
        for process_inboxes in (first_process, second_process)
    ] == [["2"], ["2"]]


async def test_older_token_does_not_return_messages_acknowledged_to_another_process(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    first_process, second_process = another_reader(server), another_reader(server)
    await send(server, txn_ids, "0")
    _, old_token = await page(server, first_process)
    await page(server, second_process)
    await send(server, txn_ids, "1")
    first, reached = await page(server, first_process, old_token)
    await first_process.acknowledge(BOB, "TABLET", reached)

    repeated, _ = await page(server, second_process, old_token)
    await send(server, txn_ids, "2")
    later, _ = await page(server, second_process, old_token)

    assert (first, repeated, later) == (["1"], [], ["2"])


async def test_recreated_device_does_not_get_messages_of_the_deleted_one(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    await page(server, inboxes)
    await send(server, txn_ids, "old")
    await server.log_out(BOB, "TABLET")
    await server.device(BOB, "TABLET")
    await send(server, txn_ids, "new")

    assert (await page(server, inboxes))[0] == ["new"]


@pytest.mark.parametrize("min_bundled", [1, 10])
@pytest.mark.parametrize("seed", range(4))
async def test_cache_and_database_return_the_same_messages(
    server: Process,
    txn_ids: Counter,
    inboxes: InboxReader,
    seed: int,
    min_bundled: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_writer, "MIN_BUNDLED", min_bundled)
    generator = random.Random(seed)
    second_inboxes = another_reader(server)
    sent: list[str] = []
    received: list[str] = []
    token = 0
    for _ in range(60):
        action = generator.random()
        if action < 0.5:
            counts = [1, 1, 1, 2, 3, MAX_LATEST - 1, MAX_LATEST + 20]
            count = generator.choice(counts if action < 0.4 else counts[:-2])
            padding = "x" * (MAX_CARRIED_BYTES if action < 0.03 else 0)
            bodies = [f"{len(sent) + n}{padding}" for n in range(count)]
            sent += bodies
            await send(server, txn_ids, *bodies)
            await send(server, txn_ids, "noise", to=ALICE)
        elif action < 0.6:
            upto = server.world.feed.position(TO_DEVICE).most()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(inboxes.messages, BOB, "TABLET", token, upto, upto)
                nursery.start_soon(send, server, txn_ids, f"{len(sent)}")
            sent.append(f"{len(sent)}")
        elif action < 0.7:
            restarted = another_reader(server)
            assert await page(server, restarted, token) == await page(server, inboxes, token)
        else:
            # As /sync does: the token acknowledges what was returned before.
            await inboxes.acknowledge(BOB, "TABLET", token)
            pages = [
                await page(server, process_inboxes, token)
                for process_inboxes in (inboxes, second_inboxes)
            ]
            assert pages[0] == pages[1], f"seed {seed}"
            messages, token = pages[0]
            received += messages
        if generator.random() < 0.1:
            await inboxes.delete()
        if generator.random() < 0.2:
            upto = server.world.feed.position(TO_DEVICE).most()
            await server.filer.unpack(generator.randint(0, upto))
    while len(received) < len(sent):
        messages, token = await page(server, inboxes, token)
        received += messages

    assert received == sent, f"seed {seed}"


async def test_request_may_contain_several_messages_for_a_device(
    server: Process, txn_ids: Counter, inboxes: InboxReader
) -> None:
    await page(server, inboxes)
    request = ToDeviceRequest(ALICE, "PHONE", "m.test", txn_ids.next())
    devices: list[DeviceAddress] = [(BOB, "*"), (BOB, "TABLET"), (BOB, "GONE"), (BOB, "*")]
    await server.inboxes.send(request, b"", devices, [b"1", b"2", b"3", b"1"])

    received, reached = await page(server, inboxes)

    assert (received, await stored(server)) == (["1", "2", "1"], ["1", "2", "1"])
    assert reached == server.world.feed.position(TO_DEVICE).most()
