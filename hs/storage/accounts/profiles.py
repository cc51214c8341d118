"""Profiles: what users show of themselves, field by field."""

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
NOTE_CHANGE = """
INSERT INTO profile_changes (user_id, change_id) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET change_id = excluded.change_id
"""
CHANGED = """
SELECT user_id, change_id FROM profile_changes WHERE change_id > $1 ORDER BY change_id LIMIT $2
"""
FORGET_CHANGE = "DELETE FROM profile_changes WHERE user_id = $1 AND change_id = $2"


class ProfileChange(NamedTuple):
    """A user whose rooms do not all show their profile yet; each change has another number."""

    user_id: UserID
    change_id: int


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


async def note_change(tx: Tx, user_id: str) -> None:
    """Note that the user's rooms are to show another profile from now on."""
    (change_id,) = await tx.next_ids(CHANGES, 1)
    await tx.execute(NOTE_CHANGE, user_id, change_id)


async def changed(tx: Tx, after: int, limit: int) -> list[ProfileChange]:
    """List whose changes are to be shown still, with greater numbers than `after`, in order."""
    return [ProfileChange(UserID(row[0]), row[1]) for row in await tx.fetch(CHANGED, after, limit)]


async def forget_change(tx: Tx, change: ProfileChange) -> None:
    """Note that a change is shown in all rooms; one that came later stays."""
    await tx.execute(FORGET_CHANGE, *change)
