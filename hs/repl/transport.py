"""The interface of transports, which carry rows from writers to the feeds of all processes."""

from typing import Any, Protocol

import trio

from hs.core.stream_def import StreamDef
from hs.repl.feed import Batch, Feed


class Source(Protocol):
    """A writer in this process, as its transport needs it."""

    @property
    def stream(self) -> StreamDef[Any]:
        """The stream."""

    @property
    def writer(self) -> str:
        """Name of the instance that writes."""

    @property
    def position(self) -> int:
        """Position at or below which the writer will add no more rows."""

    @property
    def committed(self) -> int:
        """Position of the last published row."""

    @property
    def epoch(self) -> int:
        """The epoch of a memory writer; 0 for table streams."""

    def since(self, after: int) -> Batch[Any] | None:
        """Return the rows after a position from memory; None if they are in the tables."""


class TransportMetrics(Protocol):
    """The metrics of a transport between processes."""

    @property
    def connected(self) -> bool:
        """Whether messages of other processes arrive."""

    @property
    def connections(self) -> int:
        """Number of times that it connected."""

    @property
    def received(self) -> int:
        """Number of received messages, own ones included."""

    @property
    def sent(self) -> int:
        """Number of sent messages."""

    @property
    def dropped(self) -> int:
        """Number of dropped messages: there were too many, or they could not be sent."""

    @property
    def waiting_in(self) -> int:
        """Number of received messages that are not processed yet."""

    @property
    def waiting_out(self) -> int:
        """Number of messages that are not sent yet."""


class Transport(Protocol):
    """Publishes batches and positions; the local feed has them when the call returns."""

    @property
    def feed(self) -> Feed:
        """The feed of this process."""

    @property
    def shared(self) -> bool:
        """Whether there are other processes, so that commits must be logged for them."""

    @property
    def connected(self) -> bool:
        """Whether messages of other processes arrive; always true if there are none."""

    @property
    def sources(self) -> list[Source]:
        """The writers of this process."""

    def attach(self, source: Source) -> None:
        """Add a writer of this process, whose positions are announced from now on."""

    def publish(self, batch: Batch[Any]) -> None:
        """Deliver a committed batch to all feeds."""

    def advance(self, source: Source, position: int) -> None:
        """Announce that an idle writer has no more rows up to `position`.

        The feeds of other processes learn of it a little later.
        """

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry messages until cancelled; started when this process follows the others."""
