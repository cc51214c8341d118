"""What carries the rows of this process's writers to the feeds of all processes."""

from typing import Any, Protocol

import trio

from hs.repl.feed import Batch, Feed
from hs.repl.streams import StreamDef


class Source(Protocol):
    """A writer living in this process, as its transport sees it."""

    @property
    def stream(self) -> StreamDef[Any]:
        """Give the stream it writes."""

    @property
    def writer(self) -> str:
        """Give the name of the instance it writes as."""

    @property
    def position(self) -> int:
        """Give the position below or at which it will never write again."""

    @property
    def committed(self) -> int:
        """Give the position of its last published row."""

    @property
    def epoch(self) -> int:
        """Give where its present life began; 0 for table streams."""

    def since(self, after: int) -> Batch[Any] | None:
        """Give the rows after a position from memory; None when they are in the tables."""


class Traffic(Protocol):
    """What a transport between processes tells about itself, for metrics; counts only rise."""

    @property
    def connected(self) -> bool:
        """Tell whether what other processes say arrives."""

    @property
    def connections(self) -> int:
        """Count how often it connected."""

    @property
    def received(self) -> int:
        """Count the messages that came, our own included."""

    @property
    def sent(self) -> int:
        """Count the messages that went out."""

    @property
    def dropped(self) -> int:
        """Count the messages given up: too many at once, or nobody took them."""

    @property
    def waiting_in(self) -> int:
        """Give how many messages came and were not looked at yet."""

    @property
    def waiting_out(self) -> int:
        """Give how many messages did not go out yet."""


class Transport(Protocol):
    """Publishes batches and advances; both reach the local feed before the call returns."""

    @property
    def feed(self) -> Feed:
        """Give the feed of this process."""

    @property
    def shared(self) -> bool:
        """Tell whether other processes read, so that commits must be logged for them."""

    @property
    def connected(self) -> bool:
        """Tell whether what other processes say arrives; always so where there are none."""

    @property
    def sources(self) -> list[Source]:
        """List the writers of this process."""

    def attach(self, source: Source) -> None:
        """Make a writer of this process known: its positions are announced and answered for."""

    def publish(self, batch: Batch[Any]) -> None:
        """Hand a committed batch to all feeds."""

    def advance(self, source: Source, position: int) -> None:
        """Tell all feeds, sooner or later, that an idle writer stays silent up to `position`."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry messages until cancelled; started once this process follows the others."""
