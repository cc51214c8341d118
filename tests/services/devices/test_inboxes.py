"""Messages that wait for devices: the same from memory and from disk, deleted once acknowledged."""

import random

import pytest
import trio

from hs.core.ids import UserID
from hs.repl.streams import TO_DEVICE
from hs.services.devices import inbox_writer
from hs.services.devices.inbox_addresses import Device
from hs.services.devices.inbox_writer import MAX_CARRIED_BYTES, Request
from hs.services.devices.inboxes import MAX_LATEST, Inboxes
from hs.storage.devices import to_device
from tests.support.devices import Process
from tests.support.rooms import ALICE, BOB

FOREVER = 2**62


class Counter:
    """Gives names to requests."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> str:
        self.count += 1
        return f"t{self.count}"


async def send(server: Process, names: Counter, *bodies: str, to: UserID = BOB) -> None:
    """Send messages in one request, whose bodies stand for JSON."""
    request = Request(ALICE, "PHONE", "m.test", names.next())
    messages = [body.encode() for body in bodies]
    await server.inboxes.send(request, b"", [(to, "TABLET")] * len(bodies), messages)


async def stored(server: Process, user_id: UserID = BOB) -> list[str]:
    found = await server.world.database.read(
        to_device.pending, user_id, "TABLET", 0, FOREVER, 10_000
    )
    return [message.decode() for _, message in found]


async def page(
    server: Process,
    inboxes: Inboxes,
    after: int = 0,
    user_id: UserID = BOB,
    began: int = FOREVER,
) -> tuple[list[str], int]:
    upto = server.world.feed.position(TO_DEVICE).most()
    found, reached = await inboxes.messages(user_id, "TABLET", after, upto, began)
    return [message.decode() for message in found], reached


@pytest.fixture
def names() -> Counter:
    """Names of requests."""
    return Counter()


@pytest.fixture
async def late(server: Process) -> Inboxes:
    """Inboxes that delete when they are told to."""
    inboxes = Inboxes(server.world.database, server.world.feed, is_alone=True)
    await server.device(ALICE, "TABLET")
    await server.device(BOB, "TABLET")
    return inboxes


async def test_what_was_acknowledged_is_not_given_again_before_it_is_deleted(
    server: Process, names: Counter, late: Inboxes
) -> None:
    await send(server, names, "1", "2")
    first, reached = await page(server, late)
    await late.acknowledge(BOB, "TABLET", reached)
    await send(server, names, "3")

    again, _ = await page(server, late)
    before = await stored(server)
    await late.delete()

    assert (first, again, before) == (["1", "2"], ["3"], ["1", "2", "3"])
    assert await stored(server) == ["3"]
    assert (await page(server, late))[0] == ["3"]


async def test_acknowledged_messages_are_deleted_when_the_process_ends(
    server: Process, names: Counter, late: Inboxes
) -> None:
    await send(server, names, "1")
    _, reached = await page(server, late)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.run)
        await late.acknowledge(BOB, "TABLET", reached)
        nursery.cancel_scope.cancel()

    assert await stored(server) == []


async def test_nobody_acknowledges_what_is_not_written_yet(
    server: Process, names: Counter, late: Inboxes
) -> None:
    await send(server, names, "1")
    await page(server, late)

    await late.acknowledge(BOB, "TABLET", FOREVER)
    await send(server, names, "2")
    await late.delete()

    assert await stored(server) == ["2"]
    assert (await page(server, late))[0] == ["2"]


class Watched(Inboxes):
    """Tells when something was deleted."""

    deleted = trio.Event()

    async def delete(self) -> None:
        await super().delete()
        self.deleted.set()


async def test_acknowledged_messages_are_deleted_a_moment_later(
    server: Process, names: Counter
) -> None:
    inboxes = Watched(server.world.database, server.world.feed, is_alone=True, delete_after_s=0.01)
    await server.device(BOB, "TABLET")
    left: list[list[str]] = []

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inboxes.run)
            for body in ("1", "2"):
                inboxes.deleted = trio.Event()
                await send(server, names, body)
                _, reached = await page(server, inboxes)
                await inboxes.acknowledge(BOB, "TABLET", reached)
                await inboxes.deleted.wait()
                left.append(await stored(server))
            nursery.cancel_scope.cancel()

    assert left == [[], []]


async def test_a_device_that_waits_is_given_its_next_message_from_memory(
    server: Process, names: Counter, late: Inboxes
) -> None:
    await page(server, late)
    await send(server, names, "1", "2")
    upto = server.world.feed.position(TO_DEVICE).most()
    await server.world.database.write(to_device.delete_upto, [(BOB, "TABLET", upto)])

    assert (await page(server, late))[0] == ["1", "2"]


async def test_who_begins_anew_is_not_given_what_another_process_has_deleted(
    server: Process, names: Counter, late: Inboxes
) -> None:
    here, there = (Inboxes(server.world.database, server.world.feed) for _ in range(2))
    for inboxes in (here, there):
        await page(server, inboxes)
    await send(server, names, "1")
    _, reached = await page(server, here)
    await there.acknowledge(BOB, "TABLET", reached)

    await send(server, names, "2")

    assert [(await page(server, one))[0] for one in (here, there)] == [["2"], ["2"]]


async def test_who_goes_back_is_not_given_what_was_acknowledged_to_another_process(
    server: Process, names: Counter, late: Inboxes
) -> None:
    here, there = (Inboxes(server.world.database, server.world.feed) for _ in range(2))
    await send(server, names, "0")
    _, old = await page(server, here)
    await page(server, there)
    await send(server, names, "1")
    given, reached = await page(server, here, old)
    await here.acknowledge(BOB, "TABLET", reached)

    again, _ = await page(server, there, old)
    await send(server, names, "2")
    later, _ = await page(server, there, old)

    assert (given, again, later) == (["1"], [], ["2"])


async def test_a_device_that_comes_back_gets_nothing_of_what_it_had(
    server: Process, names: Counter, late: Inboxes
) -> None:
    await page(server, late)
    await send(server, names, "old")
    await server.log_out(BOB, "TABLET")
    await server.device(BOB, "TABLET")
    await send(server, names, "new")

    assert (await page(server, late))[0] == ["new"]


@pytest.mark.parametrize("min_bundled", [1, 10])
@pytest.mark.parametrize("seed", range(4))
async def test_memory_and_disk_give_the_same(
    server: Process,
    names: Counter,
    late: Inboxes,
    seed: int,
    min_bundled: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_writer, "MIN_BUNDLED", min_bundled)
    chance = random.Random(seed)
    fast = Inboxes(server.world.database, server.world.feed)
    sent: list[str] = []
    got: list[str] = []
    seen = 0
    for _ in range(60):
        what = chance.random()
        if what < 0.5:
            few = [1, 1, 1, 2, 3, MAX_LATEST - 1, MAX_LATEST + 20]
            count = chance.choice(few if what < 0.4 else few[:-2])
            padding = "x" * (MAX_CARRIED_BYTES if what < 0.03 else 0)
            bodies = [f"{len(sent) + n}{padding}" for n in range(count)]
            sent += bodies
            await send(server, names, *bodies)
            await send(server, names, "noise", to=ALICE)
        elif what < 0.6:
            upto = server.world.feed.position(TO_DEVICE).most()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(late.messages, BOB, "TABLET", seen, upto, upto)
                nursery.start_soon(send, server, names, f"{len(sent)}")
            sent.append(f"{len(sent)}")
        elif what < 0.7:
            fresh = Inboxes(server.world.database, server.world.feed)
            assert await page(server, fresh, seen) == await page(server, late, seen)
        else:
            # As /sync does it: what was given before has arrived.
            await late.acknowledge(BOB, "TABLET", seen)
            both = [await page(server, one, seen) for one in (late, fast)]
            assert both[0] == both[1], f"seed {seed}"
            found, seen = both[0]
            got += found
        if chance.random() < 0.1:
            await late.delete()
        if chance.random() < 0.2:
            upto = server.world.feed.position(TO_DEVICE).most()
            await server.filer.file(chance.randint(0, upto))
    while len(got) < len(sent):
        found, seen = await page(server, late, seen)
        got += found

    assert got == sent, f"seed {seed}"


async def test_a_request_may_hold_several_messages_for_a_device(
    server: Process, names: Counter, late: Inboxes
) -> None:
    await page(server, late)
    request = Request(ALICE, "PHONE", "m.test", names.next())
    devices: list[Device] = [(BOB, "*"), (BOB, "TABLET"), (BOB, "GONE"), (BOB, "*")]
    await server.inboxes.send(request, b"", devices, [b"1", b"2", b"3", b"1"])

    kept, reached = await page(server, late)

    assert (kept, await stored(server)) == (["1", "2", "1"], ["1", "2", "1"])
    assert reached == server.world.feed.position(TO_DEVICE).most()
