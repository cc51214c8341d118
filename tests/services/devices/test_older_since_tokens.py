"""A device asks any process, with any token it ever had: what it has acknowledged is gone."""

import random
from typing import Any

import attrs
import pytest

from hs.core.tokens import SyncToken
from hs.repl.streams import TO_DEVICE
from hs.services.devices.inbox_writer import Request
from hs.services.devices.inboxes import Inboxes
from hs.services.sync.encryption_section import Encryption
from tests.support.counting import Count, CountingDatabase
from tests.support.devices import Process
from tests.support.rooms import ALICE, BOB


@attrs.define(eq=False)
class Tablet:
    """A device, and what serves it in several processes."""

    server: Process
    count: Count
    inboxes: list[Inboxes]
    places: list[Encryption]
    sent: int = 0

    async def send(self) -> None:
        """Have it sent a message, the number of which is its content."""
        self.sent += 1
        request = Request(ALICE, "PHONE", "m.test", f"t{self.sent}")
        message = str(self.sent).encode()
        await self.server.inboxes.send(request, b"", [(BOB, "TABLET")], [message])

    def now(self) -> SyncToken:
        """Give where the stream is."""
        return SyncToken(to_device=self.server.world.feed.position(TO_DEVICE))

    async def ask(
        self, place: int, after: int, began: SyncToken | None = None, limit: int = 100
    ) -> tuple[list[int], int]:
        """Ask a process, as a request that came now or before; give messages and the next token."""
        now = self.now()
        page = await self.places[place].messages(BOB, "TABLET", after, now, began or now, limit)
        return [int(message) for message in page.events], page.reached


@pytest.fixture
async def tablet(server: Process) -> Tablet:
    """A device that three processes know of."""
    count = Count()
    database: Any = CountingDatabase(server.world.database, count)
    lists, keys = server.device_lists, server.one_time_keys
    inboxes = [Inboxes(database, server.world.feed) for _ in range(3)]
    await server.device(BOB, "TABLET")
    made = Tablet(server, count, inboxes, [Encryption(one, lists, keys) for one in inboxes])
    for place in range(3):
        await made.ask(place, 0)
    count.reads = 0
    count.statements.clear()
    return made


@pytest.mark.parametrize("seed", range(6))
async def test_what_was_acknowledged_never_comes_again_and_all_else_does(
    tablet: Tablet, seed: int
) -> None:
    chance = random.Random(seed)
    tokens = [0]
    acknowledged = 0
    for _ in range(120):
        what = chance.random()
        if what < 0.4:
            await tablet.send()
            continue
        if what < 0.45:
            await chance.choice(tablet.inboxes).delete()
            continue
        if what < 0.5:
            await tablet.server.filer.file(tablet.now().to_device.most())
            continue
        after = tokens[-1] if chance.random() < 0.6 else chance.choice(tokens)
        place, limit = chance.randrange(3), chance.choice((1, 2, 100))
        acknowledged = max(acknowledged, after)
        began = tablet.now()
        given, reached = await tablet.ask(place, after, began, limit)
        if not given and chance.random() < 0.5:
            await tablet.send()
            given, reached = await tablet.ask(place, after, began, limit)
        expected = list(range(acknowledged + 1, tablet.sent + 1))[:limit]
        assert given == expected, f"seed {seed}"
        tokens.append(reached)


async def test_without_news_and_for_who_waits_the_table_is_not_asked(tablet: Tablet) -> None:
    _, token = await tablet.ask(0, 0)
    await tablet.send()
    _, token = await tablet.ask(0, token)
    await tablet.ask(0, token)
    tablet.count.reads = 0
    tablet.count.statements.clear()

    began = tablet.now()
    idle, _ = await tablet.ask(0, token, began)
    await tablet.send()
    waited, later = await tablet.ask(0, token, began)
    reads, statements = tablet.count.reads, len(tablet.count.statements)
    await tablet.send()
    between, _ = await tablet.ask(0, later)

    assert (idle, waited, between) == ([], [2], [3])
    assert (reads, statements) == (0, 0)
    # The acknowledgement says that nobody has been told of more.
    assert (tablet.count.reads, len(tablet.count.statements)) == (0, 1)


async def test_what_came_between_two_requests_is_asked_for_once(tablet: Tablet) -> None:
    await tablet.send()
    _, token = await tablet.ask(0, 0)
    await tablet.ask(0, token)
    await tablet.send()
    await tablet.ask(1, token)
    tablet.count.reads = 0

    _, acknowledged = await tablet.ask(1, token)
    await tablet.ask(1, acknowledged)
    before = tablet.count.reads
    gone = [await tablet.ask(0, token) for _ in range(3)]

    assert before == 1
    assert [messages for messages, _ in gone] == [[], [], []]
    assert tablet.count.reads == before + 1
