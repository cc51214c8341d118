"""Who shares rooms with whom, and which memberships changed since a moment."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql


class MovedRecord(NamedTuple):
    """A member event."""

    room_id: str
    user_id: str
    stream_id: int
    writer: str
    event_id: str


SHARED = sql(
    lambda d: (
        "SELECT other.state_key, other.room_id FROM current_state one "
        "JOIN current_state other ON other.room_id = one.room_id "
        "WHERE one.state_key = $1 AND one.membership = 'join' "
        f"AND other.membership = 'join' AND {d.any_of('other.state_key', 2, 'text')}"
    )
)
MOVED = sql(
    lambda d: (
        "SELECT room_id, state_key, stream_id, writer, event_id FROM events "
        f"WHERE {d.any_of('room_id', 1, 'text')} AND stream_id > $2 "
        "AND type = 'm.room.member' AND status = 0 ORDER BY stream_id"
    )
)


async def shared_rooms(tx: Tx, user_id: str, others: Sequence[str]) -> list[tuple[str, str]]:
    """List (other user, room) of the rooms that a user and others are joined to."""
    return [(row[0], row[1]) for row in await tx.fetch(SHARED, user_id, list(others))]


async def moved(tx: Tx, room_ids: Sequence[str], after: int) -> list[MovedRecord]:
    """List the member events of rooms behind a position, the earliest first."""
    return [MovedRecord(*row) for row in await tx.fetch(MOVED, list(room_ids), after)]
