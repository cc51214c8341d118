"""The transport of a server with one process, and of several instances in one trio run."""

from typing import Any

import attrs
import trio

from hs.repl.feed import Batch, Feed, is_plain
from hs.repl.transport import Source


@attrs.define(eq=False)
class InProcHub:
    """The connected feeds of all instances in one trio run."""

    _transports: list["InProcTransport"] = attrs.Factory(list)

    def join(self, feed: Feed) -> "InProcTransport":
        """Return the transport of a new instance, whose feed starts at the present positions."""
        transport = InProcTransport(feed, self)
        self.enter(transport)
        return transport

    def enter(self, transport: "InProcTransport") -> None:
        """Connect a transport that was made without the hub's knowledge, once it may deliver."""
        for peer in self._transports:
            for source in peer.sources:
                _begin(transport.feed, source)
        self._transports.append(transport)

    def feeds(self) -> list[Feed]:
        """Return the connected feeds."""
        return [transport.feed for transport in self._transports]


@attrs.define(eq=False)
class InProcTransport:
    """Delivers batches directly to every feed of the hub, without encoding them."""

    feed: Feed
    _hub: InProcHub
    sources: list[Source] = attrs.Factory(list)
    shared: bool = False
    connected: bool = True

    def attach(self, source: Source) -> None:
        """Let every feed follow a writer from its present position."""
        self.sources.append(source)
        for feed in self._hub.feeds():
            _begin(feed, source)

    def publish(self, batch: Batch[Any]) -> None:
        """Deliver a batch to all feeds, the writer's own first."""
        self.feed.deliver(batch)
        for feed in self._hub.feeds():
            if feed is not self.feed:
                is_spared = not feed.needs_plain(batch.stream) and is_plain(batch)
                feed.deliver(attrs.evolve(batch, rows=[]) if is_spared else batch)

    def advance(self, source: Source, position: int) -> None:
        """Raise the position of an idle writer in all feeds."""
        for feed in self._hub.feeds():
            feed.start_at(source.stream, source.writer, position)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing until cancelled: there are no messages to carry."""
        task_status.started()
        await trio.sleep_forever()


def local_transport(feed: Feed) -> InProcTransport:
    """Return the transport of a server's only process."""
    return InProcHub().join(feed)


def _begin(feed: Feed, source: Source) -> None:
    remembered = source.since(0)
    if remembered is not None and remembered.rows:
        feed.deliver(remembered)
    feed.begin_epoch(source.stream, source.writer, source.epoch)
    feed.start_at(source.stream, source.writer, source.position)
