"""In which room the server speaks to whom, and the account that it speaks with."""

from hs.storage.database import Tx

FIND = "SELECT room_id FROM notice_rooms WHERE user_id = $1"
CLAIM = """
INSERT INTO notice_rooms (user_id, room_id) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING
"""
FORGET = "DELETE FROM notice_rooms WHERE user_id = $1 AND room_id = $2"
RESERVE = """
INSERT INTO users (user_id, created_ms) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING
"""


async def room_of(tx: Tx, user_id: str) -> str | None:
    """Give the room of a user's notices."""
    room_id: str | None = await tx.fetchval(FIND, user_id)
    return room_id


async def claim(tx: Tx, user_id: str, room_id: str) -> str:
    """Note the room of a user's notices, and give the one that is noted."""
    await tx.execute(CLAIM, user_id, room_id)
    noted: str = await tx.fetchval(FIND, user_id)
    return noted


async def forget(tx: Tx, user_id: str, room_id: str) -> None:
    """Forget a room that is no more."""
    await tx.execute(FORGET, user_id, room_id)


async def reserve(tx: Tx, user_id: str, now_ms: int) -> None:
    """Make an account that nobody can log in to, unless it is there."""
    await tx.execute(RESERVE, user_id, now_ms)
