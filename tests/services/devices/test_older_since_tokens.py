"""Requests with older tokens to any process never return acknowledged messages."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest

from hs.core.streams import TO_DEVICE
from hs.core.tokens import SyncToken
from hs.services.devices.inbox_writer import ToDeviceRequest
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.devices import Process, open_devices
from tests.support.rooms import ALICE, BOB
from tests.support.sql.counting import CountingDatabase, QueryCount

NAMES = ("main", "one", "two", "three")


@attrs.define(eq=False)
class Tablet:
    """A device, the owner of its inbox, and several processes that answer the device."""

    server: Process
    count: QueryCount
    processes: list[Process]
    sent: int = 0

    async def send(self) -> None:
        """Send the device a message whose content is its number."""
        self.sent += 1
        request = ToDeviceRequest(ALICE, "PHONE", "m.test", f"t{self.sent}")
        message = str(self.sent).encode()
        await self.server.inboxes.send(request, b"", [(BOB, "TABLET")], [message])

    def now(self) -> SyncToken:
        """Return the current position of the stream."""
        return SyncToken(to_device=self.server.world.feed.position(TO_DEVICE))

    async def request_messages(
        self, process: int, after: int, began: SyncToken | None = None, limit: int = 100
    ) -> tuple[list[int], int]:
        """Request messages from a process, with a request that arrived at `began` or now.

        Return the numbers of the messages, and the next token.
        """
        now = self.now()
        page = await self.processes[process].services.encryption.to_device_page(
            BOB, "TABLET", after, now, began or now, limit
        )
        return [int(message) for message in page.events], page.reached


@pytest.fixture
async def tablet(database: Database) -> AsyncIterator[Tablet]:
    """A device that is served by three processes."""
    count, neighbours = QueryCount(), Neighbourhood()
    counting: Any = CountingDatabase(database, count)
    async with AsyncExitStack() as stack:
        server, *processes = [
            await stack.enter_async_context(
                open_devices(
                    database if name == "main" else counting,
                    worker_settings(SETTINGS, name, *NAMES),
                    neighbours,
                )
            )
            for name in NAMES
        ]
        await server.device(BOB, "TABLET")
        yield await _idle(Tablet(server, count, processes))


async def _idle(tablet: Tablet) -> Tablet:
    """Let each process read the inbox, and forget the queries."""
    for process in range(3):
        await tablet.request_messages(process, 0)
    tablet.count.reads = 0
    tablet.count.statements.clear()
    return tablet


@pytest.mark.parametrize("seed", range(6))
async def test_acknowledged_messages_are_never_returned_and_all_others_are(
    tablet: Tablet, seed: int
) -> None:
    generator = random.Random(seed)
    tokens = [0]
    acknowledged = 0
    for _ in range(120):
        action = generator.random()
        if action < 0.4:
            await tablet.send()
            continue
        if action < 0.45:
            await generator.choice(tablet.processes).services.inboxes.delete()
            continue
        if action < 0.5:
            await tablet.server.filer.unpack(tablet.now().to_device.most())
            continue
        after = tokens[-1] if generator.random() < 0.6 else generator.choice(tokens)
        process, limit = generator.randrange(3), generator.choice((1, 2, 100))
        acknowledged = max(acknowledged, after)
        began = tablet.now()
        numbers, token = await tablet.request_messages(process, after, began, limit)
        if not numbers and generator.random() < 0.5:
            await tablet.send()
            numbers, token = await tablet.request_messages(process, after, began, limit)
        expected = list(range(acknowledged + 1, tablet.sent + 1))[:limit]
        assert numbers == expected, f"seed {seed}"
        tokens.append(token)


async def test_idle_and_waiting_requests_do_not_read_the_inbox(tablet: Tablet) -> None:
    _, token = await tablet.request_messages(0, 0)
    await tablet.send()
    _, token = await tablet.request_messages(0, token)
    await tablet.request_messages(0, token)
    tablet.count.reads = 0
    tablet.count.statements.clear()

    began = tablet.now()
    idle, _ = await tablet.request_messages(0, token, began)
    await tablet.send()
    waiting, next_token = await tablet.request_messages(0, token, began)
    reads, statements = tablet.count.reads, len(tablet.count.statements)
    await tablet.send()
    between, _ = await tablet.request_messages(0, next_token)

    assert (idle, waiting, between) == ([], [2], [3])
    assert (reads, statements) == (0, 0)
    # The acknowledgement confirms that no later message has been acknowledged elsewhere.
    assert (tablet.count.reads, len(tablet.count.statements)) == (0, 1)


async def test_messages_between_two_requests_are_read_once(tablet: Tablet) -> None:
    await tablet.send()
    _, token = await tablet.request_messages(0, 0)
    await tablet.request_messages(0, token)
    await tablet.send()
    await tablet.request_messages(1, token)
    tablet.count.reads = 0

    _, acknowledged = await tablet.request_messages(1, token)
    await tablet.request_messages(1, acknowledged)
    reads = tablet.count.reads
    repeated = [await tablet.request_messages(0, token) for _ in range(3)]

    assert reads == 1
    assert [messages for messages, _ in repeated] == [[], [], []]
    assert tablet.count.reads == reads + 1
