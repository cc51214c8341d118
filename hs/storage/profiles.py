"""Profiles: what users show of themselves, field by field."""

from typing import Any

import orjson

from hs.storage.database import Tx

ALL = "SELECT field, value FROM profiles WHERE user_id = $1 ORDER BY field"
SET = """
INSERT INTO profiles (user_id, field, value) VALUES ($1, $2, $3)
ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value
"""
DELETE = "DELETE FROM profiles WHERE user_id = $1 AND field = $2"
DELETE_ALL = "DELETE FROM profiles WHERE user_id = $1"
EXISTS = "SELECT 1 FROM users WHERE user_id = $1 AND is_deactivated = 0"


async def of_user(tx: Tx, user_id: str) -> dict[str, Any] | None:
    """Give a local user's profile; None when there is no such user, or none any more."""
    rows = await tx.fetch(ALL, user_id)
    if not rows and await tx.fetchval(EXISTS, user_id) is None:
        return None
    return {row[0]: orjson.loads(row[1]) for row in rows}


async def put(tx: Tx, user_id: str, field: str, value: Any) -> None:
    """Set a field."""
    await tx.execute(SET, user_id, field, orjson.dumps(value))


async def delete(tx: Tx, user_id: str, field: str) -> None:
    """Take a field away."""
    await tx.execute(DELETE, user_id, field)


async def delete_all(tx: Tx, user_id: str) -> None:
    """Take the whole profile away."""
    await tx.execute(DELETE_ALL, user_id)
