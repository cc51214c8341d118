"""Waiting until this process has seen what other processes committed before a request came.

The specification says nothing of it, but clients expect it of a server whose processes share the
requests: a request that is sent after another was answered must show the effect of that one.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.core.errors import LimitExceeded, MatrixError
from hs.core.requester import Requester
from hs.core.stream_def import StreamDef, StreamKind
from hs.core.streams import CATALOGUE
from hs.repl.feed import Feed
from hs.storage import stream_log
from hs.storage.database import Database, DatabaseError

MESSAGE_S: Final = 0.3
"""Messages take some milliseconds. After this time, rows are read from where they are stored."""

REPAIR_S: Final = 5.0
QUERY_S: Final = 1.0

T = TypeVar("T")
TargetPositions = Sequence[tuple[StreamDef[Any], str, int]]  # (stream, writer, position)
Look = Callable[[TargetPositions], Awaitable[None]]
"""Looks for rows up to some positions, and for all others, without messages; see Intake.look."""

log = logging.getLogger(__name__)

_TABLES: Final[Mapping[str, StreamDef[Any]]] = {
    stream.name: stream for stream in CATALOGUE if stream.kind is StreamKind.TABLE
}


async def catch_up(feed: Feed, targets: TargetPositions, look: Look) -> bool:
    """Wait for positions, looking for rows whose messages are late; False on timeout."""
    if await feed.wait_for_all(targets, MESSAGE_S):
        return True
    await look(targets)
    return await feed.wait_for_all(targets, REPAIR_S)


@attrs.frozen(eq=False)
class Freshness:
    """Waits until the feed of this process has reached the positions in the database."""

    _feed: Feed
    _instance: str
    _database: Database
    look: Look

    async def catch_up(self) -> None:
        """Wait until this process has seen what any process committed before the call.

        Never raises: without the database, or after a timeout, it returns anyway.
        """
        known: list[tuple[str, str, int]] = []
        try:
            with trio.move_on_after(QUERY_S):
                known = await self._database.read(stream_log.list_positions)
        except DatabaseError as error:
            log.warning("cannot read the positions of other processes: %s", error)
        targets = [
            (_TABLES[name], writer, position)
            for name, writer, position in known
            if self._is_behind(name, writer, position)
        ]
        if targets and not await catch_up(self._feed, targets, self.look):
            log.warning("timed out waiting for replication, answering without the latest changes")

    def _is_behind(self, name: str, writer: str, position: int) -> bool:
        if writer == self._instance or name not in _TABLES:
            return False
        seen = self._feed.position_of(_TABLES[name], writer)
        return seen is not None and seen < position


@attrs.frozen(eq=False)
class RefusalRechecks:
    """Repeats refused requests that this process may have refused because its memory was behind.

    `freshness` is None for a server's only process, whose memory never is.
    """

    _feed: Feed
    _freshness: Freshness | None = None

    async def run(self, requester: Requester, action: Callable[[Requester], Awaitable[T]]) -> T:
        """Run an action; if it is refused, run it once more as soon as this process is up to date.

        A refused action must have had no effect, except that it was counted by rate limits: they do
        not count the repetition. A request that succeeds costs nothing.
        Raises: what the action raises.
        """
        moves = self._feed.moves
        try:
            return await action(requester)
        except MatrixError as error:
            if self._freshness is None or error.status >= 500 or isinstance(error, LimitExceeded):
                raise
            await self._freshness.catch_up()
            if self._feed.moves == moves:
                raise
        return await action(attrs.evolve(requester, is_rate_limit_exempt=True))
