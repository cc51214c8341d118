"""The mutual rooms of two users."""

from hs.storage.database import Tx

SHARED = """
SELECT mine.room_id FROM current_state mine JOIN current_state theirs
    ON theirs.room_id = mine.room_id AND theirs.type = mine.type
WHERE mine.type = 'm.room.member' AND mine.state_key = $1 AND mine.membership = 'join'
  AND theirs.state_key = $2 AND theirs.membership = 'join' AND mine.room_id > $3
ORDER BY mine.room_id LIMIT $4
"""
COUNT = """
SELECT COUNT(*) FROM current_state mine JOIN current_state theirs
    ON theirs.room_id = mine.room_id AND theirs.type = mine.type
WHERE mine.type = 'm.room.member' AND mine.state_key = $1 AND mine.membership = 'join'
  AND theirs.state_key = $2 AND theirs.membership = 'join'
"""


async def list_mutual_rooms(
    tx: Tx, user_id: str, other_user_id: str, after: str, limit: int
) -> tuple[list[str], int]:
    """List the mutual rooms after a room ID, in order of room IDs; return them and the total."""
    rows = await tx.fetch(SHARED, user_id, other_user_id, after, limit)
    count: int = await tx.fetchval(COUNT, user_id, other_user_id)
    return [row[0] for row in rows], count
