"""Places in a room's history, and the tokens that clients get for them."""

from typing import Final

import attrs

from hs.core.ids import RoomID
from hs.core.tokens import RoomToken, TopologicalToken, parse_room_token
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import timelines
from hs.storage.rooms.timelines import Place, Placed

# Beyond all depths and numbers that 64-bit columns hold comfortably, and that tokens can say.
FURTHEST: Final[Place] = (10**18 - 1, 10**18 - 1)
NOWHERE: Final[Place] = (-1, 0)

_ARRIVALS: Final = 20


def before(stored: StoredEvent) -> TopologicalToken:
    """Give the token of the place just before an event."""
    return TopologicalToken(stored.event.depth, stored.stream_id - 1)


def behind(stored: StoredEvent) -> TopologicalToken:
    """Give the token of the place just behind an event."""
    return TopologicalToken(stored.event.depth, stored.stream_id)


def place_of(stored: StoredEvent) -> Place:
    """Give an event's place."""
    return (stored.event.depth, stored.stream_id)


@attrs.frozen(eq=False)
class Places:
    """Finds the places that tokens mean."""

    _database: Database

    async def parse(self, room_id: RoomID, text: str) -> Place:
        """Read a client's token of any kind.

        Raises: InvalidParam.
        """
        return await self.of_token(room_id, parse_room_token(text))

    async def of_token(self, room_id: RoomID, token: RoomToken) -> Place:
        """Give the place of a token; of a sync, behind all of the room that it had seen."""
        if isinstance(token, TopologicalToken):
            return (token.depth, token.stream)
        arrived = await self._arrived(room_id, token.events.most())
        if arrived and not token.events.covers(arrived[0].writer, arrived[0].stream_id):
            # The room's owner is behind another writer that the token has seen further.
            arrived = await self._arrived(room_id, token.events.get(arrived[0].writer))
        return max(((one.depth, one.stream_id) for one in arrived), default=NOWHERE)

    async def _arrived(self, room_id: RoomID, upto: int) -> list[Placed]:
        return await self._database.read(timelines.last_arrived, room_id, upto, _ARRIVALS)
