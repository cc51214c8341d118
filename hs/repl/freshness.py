"""Waiting until this process has seen what other processes committed before a request came.

The specification says nothing of it, but clients expect it of a server whose processes share the
requests: a request that is sent after another was answered must show the effect of that one.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from hs.core.stream_def import StreamDef, StreamKind
from hs.core.streams import CATALOGUE
from hs.repl.feed import Feed
from hs.storage import stream_log
from hs.storage.database import Database, DatabaseError

MESSAGE_S: Final = 0.3
"""Messages take some milliseconds. After this time, rows are read from where they are stored."""

REPAIR_S: Final = 5.0
QUERY_S: Final = 1.0

TargetPositions = Sequence[tuple[StreamDef[Any], str, int]]  # (stream, writer, position)
Look = Callable[[], Awaitable[None]]
"""Looks for new rows without messages; see Intake.look."""

log = logging.getLogger(__name__)

_TABLES: Final[Mapping[str, StreamDef[Any]]] = {
    stream.name: stream for stream in CATALOGUE if stream.kind is StreamKind.TABLE
}


async def catch_up(feed: Feed, targets: TargetPositions, look: Look) -> bool:
    """Wait for positions, looking for rows whose messages are late; False on timeout."""
    if await feed.wait_for_all(targets, MESSAGE_S):
        return True
    await look()
    return await feed.wait_for_all(targets, REPAIR_S)


@attrs.frozen(eq=False)
class Freshness:
    """Waits until the feed of this process has reached the positions in the database."""

    _feed: Feed
    _instance: str
    _database: Database
    _look: Look

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
        if targets and not await catch_up(self._feed, targets, self._look):
            log.warning("timed out waiting for replication, answering without the latest changes")

    def _is_behind(self, name: str, writer: str, position: int) -> bool:
        if writer == self._instance or name not in _TABLES:
            return False
        seen = self._feed.position_of(_TABLES[name], writer)
        return seen is not None and seen < position
