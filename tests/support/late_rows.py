"""Processes of one server whose rows arrive as late as they may: when a process waits for them.

late = LateNeighbourhood()
async with (
    open_actions(database, main, neighbours=late) as first,
    open_actions(database, worker, neighbours=late) as second,
):
    ...  # what first writes is unknown to second, until second must know it

A test sets `hs.repl.freshness.MESSAGE_S` to zero: no message is worth waiting for.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio

from hs.repl.feed import Batch, Feed
from hs.repl.freshness import Look, TargetPositions
from hs.repl.inproc import InProcTransport
from hs.repl.intake import Intake
from hs.repl.transport import Source
from tests.support.composition import Neighbourhood


@attrs.define(eq=False)
class LateRows:
    """What other processes have published, and a process has not received yet."""

    waiting: deque[Callable[[], None]] = attrs.Factory(deque)

    async def receive(self, _: TargetPositions = ()) -> None:
        """Deliver everything that waits."""
        await trio.lowlevel.checkpoint()
        while self.waiting:
            self.waiting.popleft()()


@attrs.define(eq=False)
class LateTransport(InProcTransport):
    """Keeps rows for the other processes until they look for them."""

    others: dict[Feed, LateRows] = attrs.Factory(dict)

    def publish(self, batch: Batch[Any]) -> None:
        """Deliver a batch to the writer's own feed, and keep it for the others."""
        self.feed.deliver(batch)
        for feed, rows in self.others.items():
            if feed is not self.feed:
                rows.waiting.append(partial(feed.deliver, batch))

    def advance(self, source: Source, position: int) -> None:
        """Raise the position of an idle writer."""
        self.feed.start_at(source.stream, source.writer, position)
        for feed, rows in self.others.items():
            if feed is not self.feed:
                rows.waiting.append(partial(feed.start_at, source.stream, source.writer, position))


@attrs.define(eq=False)
class LateNeighbourhood(Neighbourhood):
    """The processes of one server, each of which learns of the others' rows when it must."""

    rows: dict[Feed, LateRows] = attrs.Factory(dict)

    def make_transport(self, feed: Feed) -> LateTransport:
        """Return the transport of a process."""
        self.rows[feed] = LateRows()
        return LateTransport(feed, self.hub, others=self.rows)

    def look_of(self, feed: Feed, intake: Intake) -> Look:
        """Return what a process calls to look for rows that are late."""
        return self.rows[feed].receive
