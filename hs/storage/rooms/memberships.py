"""Reading memberships: the rooms of our users, and the members of rooms."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

OF_USER = """
SELECT room_id, membership, event_id, stream_id, sender, forgotten
FROM local_memberships WHERE user_id = $1
"""
JOINED = "SELECT room_id FROM local_memberships WHERE user_id = $1 AND membership = 'join'"
JOIN_EVENT = """
SELECT event_id FROM local_memberships
WHERE room_id = $1 AND user_id = $2 AND membership = 'join'
"""
PRESENT = sql(
    lambda d: (
        "SELECT room_id, state_key, membership, stream_id FROM current_state "
        f"WHERE {d.any_of('room_id', 1, 'text')} AND membership IN ('join', 'invite') "
        "ORDER BY stream_id"
    )
)
OF_MEMBERS = sql(
    lambda d: (
        "SELECT state_key, membership FROM current_state WHERE room_id = $1 "
        f"AND type = 'm.room.member' AND {d.any_of('state_key', 2, 'text')}"
    )
)
GONE = """
SELECT state_key FROM current_state
WHERE room_id = $1 AND membership IN ('leave', 'ban') AND state_key <> $2
ORDER BY stream_id LIMIT $3
"""
SHARED = """
SELECT 1 FROM current_state one JOIN current_state other ON other.room_id = one.room_id
WHERE one.state_key = $1 AND one.membership = 'join'
  AND other.state_key = $2 AND other.membership = 'join' LIMIT 1
"""


class LocalRecord(NamedTuple):
    """One row of local_memberships."""

    room_id: str
    membership: str
    event_id: str
    stream_id: int
    sender: str
    forgotten: int


class PresentRecord(NamedTuple):
    """A member who is joined or invited."""

    room_id: str
    user_id: str
    membership: str
    stream_id: int


async def of_user(tx: Tx, user_id: str) -> list[LocalRecord]:
    """List what one of our users has to do with each room."""
    return [LocalRecord(*row) for row in await tx.fetch(OF_USER, user_id)]


async def joined_rooms(tx: Tx, user_id: str) -> list[str]:
    """List the rooms that one of our users is joined to."""
    return [row[0] for row in await tx.fetch(JOINED, user_id)]


async def join_event(tx: Tx, room_id: str, user_id: str) -> str | None:
    """Give the event by which one of our users is joined to a room; None when they are not."""
    event_id: str | None = await tx.fetchval(JOIN_EVENT, room_id, user_id)
    return event_id


async def present(tx: Tx, room_ids: Sequence[str]) -> list[PresentRecord]:
    """List who is joined to or invited to rooms, the earliest first."""
    return [PresentRecord(*row) for row in await tx.fetch(PRESENT, list(room_ids))]


async def of_members(tx: Tx, room_id: str, user_ids: Sequence[str]) -> dict[str, str]:
    """Give the memberships of those users that a room's current state names."""
    rows = await tx.fetch(OF_MEMBERS, room_id, list(user_ids))
    return {row[0]: row[1] for row in rows if row[1] is not None}


async def gone(tx: Tx, room_id: str, but: str, limit: int) -> list[str]:
    """List who left a room or was banned, but for one user, the earliest first."""
    return [row[0] for row in await tx.fetch(GONE, room_id, but, limit)]


async def share_room(tx: Tx, user_id: str, other_id: str) -> bool:
    """Tell whether two users are joined to one room."""
    return await tx.fetchval(SHARED, user_id, other_id) is not None
