"""The transport inside one process: the monolith, and several instances in one simulated run."""

from typing import Any

import attrs
import trio

from hs.repl.feed import Batch, Feed
from hs.repl.transport import Source


@attrs.define(eq=False)
class InProcHub:
    """Connects the feeds of instances that live in one trio run."""

    _transports: list["InProcTransport"] = attrs.Factory(list)

    def join(self, feed: Feed) -> "InProcTransport":
        """Give a new instance its transport and let it begin where the others are."""
        transport = InProcTransport(feed, self)
        for other in self._transports:
            for source in other.sources:
                _begin(feed, source)
        self._transports.append(transport)
        return transport

    def feeds(self) -> list[Feed]:
        """List the feeds that are connected."""
        return [transport.feed for transport in self._transports]


@attrs.define(eq=False)
class InProcTransport:
    """Delivers straight into every feed of the hub; nothing is encoded."""

    feed: Feed
    _hub: InProcHub
    sources: list[Source] = attrs.Factory(list)
    shared: bool = False
    connected: bool = True

    def attach(self, source: Source) -> None:
        """Let every feed follow the writer from where it is."""
        self.sources.append(source)
        for feed in self._hub.feeds():
            _begin(feed, source)

    def publish(self, batch: Batch[Any]) -> None:
        """Deliver to all feeds, the writer's own first."""
        self.feed.deliver(batch)
        for feed in self._hub.feeds():
            if feed is not self.feed:
                feed.deliver(batch)

    def advance(self, source: Source, position: int) -> None:
        """Move an idle writer forward in all feeds."""
        for feed in self._hub.feeds():
            feed.start_at(source.stream, source.writer, position)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing: there is nobody to carry messages to."""
        task_status.started()
        await trio.sleep_forever()


def alone(feed: Feed) -> InProcTransport:
    """Give the transport of a process that has no others."""
    return InProcHub().join(feed)


def _begin(feed: Feed, source: Source) -> None:
    held = source.since(0)
    if held is not None and held.rows:
        feed.deliver(held)
    feed.begin_epoch(source.stream, source.writer, source.epoch)
    feed.start_at(source.stream, source.writer, source.position)
