"""The event closest to a timestamp that lies in a gap of the stored history, from other servers.

A response is used only if its event is closer than the stored ones, and after that event has passed
all checks and was stored, as history with gaps on both sides.

Spec: server-server API, GET /timestamp_to_event/{roomId}.
"""

import logging
from typing import Final

import attrs
import trio

from hs.core.errors import MatrixError, RemoteFault
from hs.core.ids import EventID, ServerName
from hs.services.federation.access.servers_to_ask import ServersToAsk
from hs.services.federation.history.history_fetcher import HistoryFetcher
from hs.services.federation.requests.timestamps import get_event_at_time
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.read.older_history import TimeQuery
from hs.storage.database import Database
from hs.storage.rooms import gaps

SEARCH_S: Final = 15.0
MAX_SERVERS: Final = 3

_MAX_DEPTH: Final = 2**62

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class TimestampLookup:
    """Finds events by timestamp at other servers."""

    _client: FederationClient
    _database: Database
    _servers: ServersToAsk
    _fetcher: HistoryFetcher

    async def find_closer(self, query: TimeQuery) -> EventID | None:
        """Find and store an event that is closer to a time; see OlderHistory."""
        depths = _depths_of_gaps(query)
        if not await self._database.read(gaps.has_gap, query.room_id, depths):
            return None
        with trio.move_on_after(SEARCH_S):
            for server in await self._servers.in_room(query.room_id, MAX_SERVERS):
                event_id = await self._ask(server, query)
                if event_id is not None:
                    return event_id
        return None

    async def _ask(self, server: ServerName, query: TimeQuery) -> EventID | None:
        room_id = query.room_id
        try:
            found = await get_event_at_time(
                self._client, server, room_id, query.ts, query.direction
            )
            if found is None or not query.is_closer(found[1]):
                return None
            is_stored = await self._fetcher.receive_single(server, room_id, found[0])
        except* (RemoteFault, MatrixError) as faults:
            log.info("no event by timestamp in room %s: %s", room_id, faults.exceptions[0])
        else:
            return found[0] if is_stored else None
        return None


def _depths_of_gaps(query: TimeQuery) -> tuple[int, int]:
    """Return where gaps may hide a closer event.

    Events in a gap are older than the event that cites them, and newer than those below.
    """
    if query.depth is None:
        return 0, _MAX_DEPTH
    if query.direction == "f":
        return 0, query.depth
    return query.depth + 1, _MAX_DEPTH
