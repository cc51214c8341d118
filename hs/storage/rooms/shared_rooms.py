"""The rooms that users share, and membership changes since a position."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql


class MembershipChangeRecord(NamedTuple):
    """A change of membership: an m.room.member event."""

    room_id: str
    user_id: str
    stream_id: int
    writer: str
    event_id: str


SHARED = sql(
    lambda d: (
        "SELECT theirs.state_key, theirs.room_id FROM current_state mine "
        "JOIN current_state theirs ON theirs.room_id = mine.room_id "
        "WHERE mine.state_key = $1 AND mine.membership = 'join' "
        f"AND theirs.membership = 'join' AND {d.any_of('theirs.state_key', 2, 'text')}"
    )
)
MOVED = sql(
    lambda d: (
        "SELECT room_id, state_key, stream_id, writer, event_id FROM events "
        f"WHERE {d.any_of('room_id', 1, 'text')} AND stream_id > $2 "
        "AND type = 'm.room.member' AND status = 0 ORDER BY stream_id"
    )
)


async def list_shared_rooms(
    tx: Tx, user_id: str, other_user_ids: Sequence[str]
) -> list[tuple[str, str]]:
    """List (other user, room) for the rooms to which the user and another one are joined."""
    return [(row[0], row[1]) for row in await tx.fetch(SHARED, user_id, list(other_user_ids))]


async def list_membership_changes(
    tx: Tx, room_ids: Sequence[str], after: int
) -> list[MembershipChangeRecord]:
    """List the member events of rooms after a stream ID, earliest first."""
    return [MembershipChangeRecord(*row) for row in await tx.fetch(MOVED, list(room_ids), after)]
