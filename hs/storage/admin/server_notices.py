"""Server notices: the notice room of each user, the notice account, and consent reminders."""

from hs.storage.database import Tx

FIND = "SELECT room_id FROM notice_rooms WHERE user_id = $1"
CLAIM = """
INSERT INTO notice_rooms (user_id, room_id) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING
"""
FORGET = "DELETE FROM notice_rooms WHERE user_id = $1 AND room_id = $2"
RESERVE = """
INSERT INTO users (user_id, created_ms) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING
"""
WITHOUT_CONSENT = """
SELECT u.user_id FROM users u
WHERE u.is_deactivated = 0 AND u.appservice_id IS NULL AND (u.is_guest = 0 OR $3 = 1)
AND u.user_id <> $4
AND NOT EXISTS (SELECT 1 FROM user_consents c WHERE c.user_id = u.user_id AND c.version = $1)
AND NOT EXISTS (SELECT 1 FROM consent_notices n WHERE n.user_id = u.user_id AND n.version = $1)
AND EXISTS (SELECT 1 FROM devices d WHERE d.user_id = u.user_id AND d.last_seen_ms >= $2)
ORDER BY u.user_id LIMIT $5
"""
RECORD_NOTIFIED = """
INSERT INTO consent_notices (user_id, version) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET version = excluded.version
"""


async def find_notice_room(tx: Tx, user_id: str) -> str | None:
    """Return the notice room of a user."""
    room_id: str | None = await tx.fetchval(FIND, user_id)
    return room_id


async def claim_notice_room(tx: Tx, user_id: str, room_id: str) -> str:
    """Store the notice room of a user unless there is one; return the stored one."""
    await tx.execute(CLAIM, user_id, room_id)
    stored: str = await tx.fetchval(FIND, user_id)
    return stored


async def delete_notice_room(tx: Tx, user_id: str, room_id: str) -> None:
    """Delete the notice room of a user, if it is this one."""
    await tx.execute(FORGET, user_id, room_id)


async def reserve_account(tx: Tx, user_id: str, now_ms: int) -> None:
    """Create an account without a password unless it exists."""
    await tx.execute(RESERVE, user_id, now_ms)


async def list_without_consent(
    tx: Tx, version: str, since_ms: int, guests_too: bool, except_user: str, limit: int
) -> list[str]:
    """List users seen since a time who have neither agreed to a version nor been notified of it."""
    rows = await tx.fetch(WITHOUT_CONSENT, version, since_ms, int(guests_too), except_user, limit)
    return [row[0] for row in rows]


async def record_consent_notice(tx: Tx, user_id: str, version: str) -> None:
    """Store that a user was notified of a version."""
    await tx.execute(RECORD_NOTIFIED, user_id, version)
