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
TO_BE_ASKED = """
SELECT u.user_id FROM users u
WHERE u.is_deactivated = 0 AND u.appservice_id IS NULL AND (u.is_guest = 0 OR $3 = 1)
AND u.user_id <> $4
AND NOT EXISTS (SELECT 1 FROM user_consents c WHERE c.user_id = u.user_id AND c.version = $1)
AND NOT EXISTS (SELECT 1 FROM consent_notices n WHERE n.user_id = u.user_id AND n.version = $1)
AND EXISTS (SELECT 1 FROM devices d WHERE d.user_id = u.user_id AND d.last_seen_ms >= $2)
ORDER BY u.user_id LIMIT $5
"""
NOTE_ASKED = """
INSERT INTO consent_notices (user_id, version) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET version = excluded.version
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


async def to_be_asked(
    tx: Tx, version: str, since_ms: int, guests_too: bool, but: str, limit: int
) -> list[str]:
    """List users seen since then who have not agreed to a version and were not told of it."""
    rows = await tx.fetch(TO_BE_ASKED, version, since_ms, int(guests_too), but, limit)
    return [row[0] for row in rows]


async def note_asked(tx: Tx, user_id: str, version: str) -> None:
    """Note that a user was told of a version."""
    await tx.execute(NOTE_ASKED, user_id, version)
