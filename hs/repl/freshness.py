"""Having what other processes wrote, before something is answered that must show it.

Spec: none; what clients expect of a server that answers their requests by several processes.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from hs.repl.feed import Feed
from hs.repl.streams import CATALOGUE, Kind, StreamDef
from hs.storage import stream_log
from hs.storage.database import Database, DatabaseError

LATE_S: Final = 0.3
"""Messages take some milliseconds; after this they are looked for where they are stored."""

LAST_S: Final = 5.0
ASKING_S: Final = 1.0

Wanted = Sequence[tuple[StreamDef[Any], str, int]]  # (stream, writer, position)
Look = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)

_TABLES: Final[Mapping[str, StreamDef[Any]]] = {
    stream.name: stream for stream in CATALOGUE if stream.kind is Kind.TABLE
}


async def catch_up(feed: Feed, wanted: Wanted, look: Look) -> bool:
    """Wait until positions are reached, looking for what messages did not tell; False: too slow."""
    if await feed.wait_for_all(wanted, LATE_S):
        return True
    await look()
    return await feed.wait_for_all(wanted, LAST_S)


@attrs.frozen(eq=False)
class Freshness:
    """Brings this process to where the tables are."""

    _feed: Feed
    _instance: str
    _database: Database
    _look: Look

    async def see_all(self) -> None:
        """Wait until this process knows what was committed before the call, whoever did it.

        Never raises: without the database, or if it takes too long, it goes on with what is known.
        """
        known: list[tuple[str, str, int]] = []
        try:
            with trio.move_on_after(ASKING_S):
                known = await self._database.read(stream_log.positions)
        except DatabaseError as error:
            log.warning("cannot ask the database what others have written: %s", error)
        wanted = [
            (_TABLES[name], writer, position)
            for name, writer, position in known
            if self._is_behind(name, writer, position)
        ]
        if wanted and not await catch_up(self._feed, wanted, self._look):
            log.warning("what other processes wrote is late at this process")

    def _is_behind(self, name: str, writer: str, position: int) -> bool:
        if writer == self._instance or name not in _TABLES:
            return False
        seen = self._feed.position_of(_TABLES[name], writer)
        return seen is not None and seen < position
