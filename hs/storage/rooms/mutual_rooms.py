"""The rooms that two users are in."""

from hs.storage.database import Tx

SHARED = """
SELECT one.room_id FROM current_state one JOIN current_state other
    ON other.room_id = one.room_id AND other.type = one.type
WHERE one.type = 'm.room.member' AND one.state_key = $1 AND one.membership = 'join'
  AND other.state_key = $2 AND other.membership = 'join' AND one.room_id > $3
ORDER BY one.room_id LIMIT $4
"""
COUNT = """
SELECT COUNT(*) FROM current_state one JOIN current_state other
    ON other.room_id = one.room_id AND other.type = one.type
WHERE one.type = 'm.room.member' AND one.state_key = $1 AND one.membership = 'join'
  AND other.state_key = $2 AND other.membership = 'join'
"""


async def shared(
    tx: Tx, user_id: str, other_id: str, after: str, limit: int
) -> tuple[list[str], int]:
    """List rooms that both are joined to, behind one in the order of IDs; and count them all."""
    rows = await tx.fetch(SHARED, user_id, other_id, after, limit)
    count: int = await tx.fetchval(COUNT, user_id, other_id)
    return [row[0] for row in rows], count
