"""Users' consents to versions of the terms of service."""

from typing import Final

from hs.storage.database import Tx

FIND: Final = "SELECT version FROM user_consents WHERE user_id = $1"
IS_USER: Final = "SELECT 1 FROM users WHERE user_id = $1 AND is_deactivated = 0"
PUT: Final = """
INSERT INTO user_consents (user_id, version, given_ms) VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE SET version = excluded.version, given_ms = excluded.given_ms
"""


async def accepted_version(tx: Tx, user_id: str) -> str | None:
    """Return the version that a user last agreed to."""
    version: str | None = await tx.fetchval(FIND, user_id)
    return version


async def record_consent(tx: Tx, user_id: str, version: str, now_ms: int) -> bool:
    """Store a user's consent; return False if there is no such active user."""
    if await tx.fetchval(IS_USER, user_id) is None:
        return False
    await tx.execute(PUT, user_id, version, now_ms)
    return True
