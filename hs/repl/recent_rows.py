"""RPC to the writers of memory streams, for readers that missed rows."""

from collections.abc import Callable
from typing import Protocol

import attrs

from hs.repl.row_codec import encode_rows
from hs.repl.rpc import rpc
from hs.repl.transport import Source


@attrs.frozen
class RecentBatch:
    """The rows after a position; with `reset`, all that the writer remembers."""

    prev: int
    position: int
    epoch: int
    reset: bool
    rows: bytes


class RecentRows(Protocol):
    """The memory writers of one instance."""

    # The caller brings the feed up to date with the result, so it cannot wait for the feed first.
    @rpc(timeout_s=10.0, catch_up=False)
    async def since(self, stream: str, after: int) -> RecentBatch | None:
        """Return the rows of a stream after a position; None if it is not written there."""


@attrs.frozen(eq=False)
class LocalRecentRows:
    """The memory writers of this process."""

    _sources: Callable[[], list[Source]]

    async def since(self, stream: str, after: int) -> RecentBatch | None:
        """Return the rows of a stream after a position; None if it is not written here."""
        for source in self._sources():
            if source.stream.name != stream:
                continue
            batch = source.since(after)
            if batch is not None:
                rows = encode_rows(batch.rows)
                return RecentBatch(batch.prev, batch.position, source.epoch, batch.reset, rows)
        return None
