"""Profiles of local users, field by field, and changes not yet shown in their rooms."""

from typing import Any, NamedTuple

import orjson

from hs.core.ids import UserID
from hs.storage.database import Tx

CHANGES = "profile_changes"

ALL = "SELECT field, value FROM profiles WHERE user_id = $1 ORDER BY field"
SET = """
INSERT INTO profiles (user_id, field, value) VALUES ($1, $2, $3)
ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value
"""
DELETE = "DELETE FROM profiles WHERE user_id = $1 AND field = $2"
DELETE_ALL = "DELETE FROM profiles WHERE user_id = $1"
EXISTS = "SELECT 1 FROM users WHERE user_id = $1 AND is_deactivated = 0"
RECORD_CHANGE = """
INSERT INTO profile_changes (user_id, change_id) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET change_id = excluded.change_id
"""
CHANGED = """
SELECT user_id, change_id FROM profile_changes WHERE change_id > $1 ORDER BY change_id LIMIT $2
"""
DELETE_CHANGE = "DELETE FROM profile_changes WHERE user_id = $1 AND change_id = $2"


class ProfileChange(NamedTuple):
    """A change of a profile that not all rooms of the user show yet; its ID is unique."""

    user_id: UserID
    change_id: int


async def get_profile(tx: Tx, user_id: str) -> dict[str, Any] | None:
    """Return a local user's profile; None if there is no such active user."""
    rows = await tx.fetch(ALL, user_id)
    if not rows and await tx.fetchval(EXISTS, user_id) is None:
        return None
    return {row[0]: orjson.loads(row[1]) for row in rows}


async def set_field(tx: Tx, user_id: str, field: str, value: Any) -> None:
    """Set a field; `value` is any JSON value."""
    await tx.execute(SET, user_id, field, orjson.dumps(value))


async def delete_field(tx: Tx, user_id: str, field: str) -> None:
    """Delete a field."""
    await tx.execute(DELETE, user_id, field)


async def delete_all(tx: Tx, user_id: str) -> None:
    """Delete all fields of a user."""
    await tx.execute(DELETE_ALL, user_id)


async def record_change(tx: Tx, user_id: str) -> None:
    """Record that the user's rooms have yet to show the new profile."""
    (change_id,) = await tx.next_ids(CHANGES, 1)
    await tx.execute(RECORD_CHANGE, user_id, change_id)


async def list_changes(tx: Tx, after: int, limit: int) -> list[ProfileChange]:
    """List pending changes with IDs greater than `after`, in order."""
    return [ProfileChange(UserID(row[0]), row[1]) for row in await tx.fetch(CHANGED, after, limit)]


async def delete_change(tx: Tx, change: ProfileChange) -> None:
    """Delete a change that all rooms show; a later change of the user is kept."""
    await tx.execute(DELETE_CHANGE, *change)
