"""Who has agreed to which version of the terms of use."""

from typing import Final

from hs.storage.database import Tx

FIND: Final = "SELECT version FROM user_consents WHERE user_id = $1"
IS_USER: Final = "SELECT 1 FROM users WHERE user_id = $1 AND is_deactivated = 0"
PUT: Final = """
INSERT INTO user_consents (user_id, version, given_ms) VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE SET version = excluded.version, given_ms = excluded.given_ms
"""


async def version_of(tx: Tx, user_id: str) -> str | None:
    """Give the version that a user has agreed to last."""
    version: str | None = await tx.fetchval(FIND, user_id)
    return version


async def put(tx: Tx, user_id: str, version: str, now_ms: int) -> bool:
    """Note that a user has agreed; False: there is no such user."""
    if await tx.fetchval(IS_USER, user_id) is None:
        return False
    await tx.execute(PUT, user_id, version, now_ms)
    return True
