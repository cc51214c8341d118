"""What a reader that missed rows of a memory stream asks their writer, by RPC."""

from collections.abc import Callable
from typing import Protocol

import attrs

from hs.repl.row_codec import encode_rows
from hs.repl.rpc import rpc
from hs.repl.transport import Source


@attrs.frozen
class RecentBatch:
    """The rows after a position; with `reset`, all that is still known."""

    prev: int
    position: int
    epoch: int
    reset: bool
    rows: bytes


class RecentRows(Protocol):
    """Answers for the memory writers of one instance."""

    # Its caller is the one by whom the feed catches up, so it must not wait for that.
    @rpc(timeout_s=10.0, catch_up=False)
    async def since(self, stream: str, after: int) -> RecentBatch | None:
        """Give the rows of a stream after a position; None when it is not written here."""


@attrs.frozen(eq=False)
class LocalRecentRows:
    """Answers from the writers of this process."""

    _sources: Callable[[], list[Source]]

    async def since(self, stream: str, after: int) -> RecentBatch | None:
        """Give the rows of a stream after a position."""
        for source in self._sources():
            if source.stream.name != stream:
                continue
            batch = source.since(after)
            if batch is not None:
                rows = encode_rows(batch.rows)
                return RecentBatch(batch.prev, batch.position, source.epoch, batch.reset, rows)
        return None
