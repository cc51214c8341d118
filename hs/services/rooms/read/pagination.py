"""Positions in a room's history, and the pagination tokens that name them."""

from typing import Final

import attrs

from hs.core.ids import RoomID
from hs.core.tokens import RoomToken, TopologicalToken, parse_room_token
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import timelines
from hs.storage.rooms.timelines import HistoryPosition, TimelineEvent

# Greater than any depth and stream ID; still fits into 64-bit columns and tokens.
HISTORY_END: Final[HistoryPosition] = (10**18 - 1, 10**18 - 1)
HISTORY_START: Final[HistoryPosition] = (-1, 0)

_MAX_ARRIVALS: Final = 20


def token_before(stored: StoredEvent) -> TopologicalToken:
    """Return the token of the position just before an event."""
    return TopologicalToken(stored.event.depth, stored.stream_id - 1)


def token_after(stored: StoredEvent) -> TopologicalToken:
    """Return the token of the position just after an event."""
    return TopologicalToken(stored.event.depth, stored.stream_id)


def position_of(stored: StoredEvent) -> HistoryPosition:
    """Return the position of an event."""
    return (stored.event.depth, stored.stream_id)


@attrs.frozen(eq=False)
class TokenPositions:
    """Finds the positions that pagination and sync tokens refer to."""

    _database: Database

    async def parse(self, room_id: RoomID, text: str) -> HistoryPosition:
        """Return the position of a client's token of any kind.

        Raises: InvalidParam.
        """
        return await self.of_token(room_id, parse_room_token(text))

    async def of_token(self, room_id: RoomID, token: RoomToken) -> HistoryPosition:
        """Return the position of a token; of a sync token, after all that the sync had seen."""
        if isinstance(token, TopologicalToken):
            return (token.depth, token.stream)
        arrived = await self._arrived(room_id, token.events.most())
        if arrived and not token.events.covers(arrived[0].writer, arrived[0].stream_id):
            # The token is further ahead in another writer's events than in the room owner's.
            arrived = await self._arrived(room_id, token.events.get(arrived[0].writer))
        return max(((event.depth, event.stream_id) for event in arrived), default=HISTORY_START)

    async def _arrived(self, room_id: RoomID, upto: int) -> list[TimelineEvent]:
        return await self._database.read(timelines.last_arrived, room_id, upto, _MAX_ARRIVALS)
