"""What the databases of the servers contain."""

from collections.abc import Mapping
from typing import Final

import attrs
import orjson

from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Tx
from hs.storage.inline import InlineDatabase
from hs.storage.rooms.stored_pdus import expand_pdu

_STATE: Final = "SELECT type, state_key, event_id, membership FROM current_state WHERE room_id = $1"
_HEAD: Final = "SELECT extremities FROM room_heads WHERE room_id = $1"
_MEMBERSHIPS: Final = """
SELECT event_id, pdu FROM events WHERE room_id = $1 AND type = 'm.room.member' AND state_key = $2
AND status = 0 ORDER BY stream_id
"""
_EVENTS: Final = "SELECT event_id, status, type FROM events WHERE room_id = $1"


@attrs.frozen(eq=False)
class StoredState:
    """The current state of a room."""

    events: Mapping[tuple[str, str], EventID]
    memberships: Mapping[str, str]

    def membership(self, user_id: str) -> str | None:
        """Return the membership of a user."""
        return self.memberships.get(user_id)


async def read_state(database: InlineDatabase, room_id: RoomID) -> StoredState:
    """Return the current state of a room."""
    rows = await database.read(_state, room_id)
    return StoredState(
        {(row[0], row[1]): EventID(row[2]) for row in rows},
        {row[1]: row[3] for row in rows if row[0] == "m.room.member"},
    )


async def read_extremities(database: InlineDatabase, room_id: RoomID) -> set[EventID]:
    """Return the forward extremities of a room."""
    return await database.read(_extremities, room_id)


async def read_statuses(
    database: InlineDatabase, room_id: RoomID
) -> dict[EventID, tuple[EventStatus, str]]:
    """Return the status and type of each stored event of a room."""
    return await database.read(_statuses, room_id)


async def read_memberships(
    database: InlineDatabase, room_id: RoomID, user_id: UserID
) -> dict[EventID, str]:
    """Return the memberships of a user by the accepted events that set them, oldest first."""
    return await database.read(_memberships, room_id, user_id)


async def _memberships(tx: Tx, room_id: str, user_id: str) -> dict[EventID, str]:
    rows = await tx.fetch(_MEMBERSHIPS, room_id, user_id)
    pdus = {EventID(row[0]): orjson.loads(expand_pdu(row[1])) for row in rows}
    return {event_id: str(pdu["content"].get("membership")) for event_id, pdu in pdus.items()}


async def _state(tx: Tx, room_id: str) -> list[tuple[str, str, str, str]]:
    return [(row[0], row[1], row[2], row[3]) for row in await tx.fetch(_STATE, room_id)]


async def _extremities(tx: Tx, room_id: str) -> set[EventID]:
    return set(orjson.loads(await tx.fetchval(_HEAD, room_id) or "[]"))


async def _statuses(tx: Tx, room_id: str) -> dict[EventID, tuple[EventStatus, str]]:
    rows = await tx.fetch(_EVENTS, room_id)
    return {EventID(row[0]): (EventStatus(row[1]), row[2]) for row in rows}
