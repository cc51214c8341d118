"""The latest change of each profile field, for clients that follow profiles."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

MAX_DELETED: Final = 100
"""How many deleted fields of a user are remembered."""

RECORD = """
INSERT INTO profile_updates (user_id, field, is_set, stream_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, field) DO UPDATE SET
    is_set = excluded.is_set, stream_id = excluded.stream_id
"""
DELETE_OLDEST = """
DELETE FROM profile_updates WHERE user_id = $1 AND is_set = 0 AND stream_id <= (
    SELECT stream_id FROM profile_updates WHERE user_id = $1 AND is_set = 0
    ORDER BY stream_id DESC LIMIT 1 OFFSET $2
)
"""
DELETE_ALL = "DELETE FROM profile_updates WHERE user_id = $1"
IN_RANGE = """
SELECT user_id, field, stream_id FROM profile_updates
WHERE stream_id > $1 AND stream_id <= $2 ORDER BY stream_id LIMIT $3
"""
OF_USERS = sql(
    lambda d: (
        "SELECT user_id, field, stream_id FROM profile_updates "
        f"WHERE {d.any_of('user_id', 4, 'text')} AND stream_id > $1 AND stream_id <= $2 "
        "ORDER BY stream_id LIMIT $3"
    )
)
ALL_VALUES = sql(
    lambda d: f"SELECT user_id, field, value FROM profiles WHERE {d.any_of('user_id', 1, 'text')}"
)
VALUES = sql(
    lambda d: (
        "SELECT user_id, field, value FROM profiles "
        f"WHERE {d.any_of('user_id', 1, 'text')} AND {d.any_of('field', 2, 'text')}"
    )
)


class ProfileUpdate(NamedTuple):
    """The latest change of one field."""

    user_id: str
    field: str
    stream_id: int


class ProfileField(NamedTuple):
    """The value of a field, as JSON."""

    user_id: str
    field: str
    value: bytes


async def record(tx: Tx, stream_id: int, user_id: str, field: str, *, is_set: bool) -> None:
    """Record that a field was set or deleted; only the latest deleted fields are remembered."""
    await tx.execute(RECORD, user_id, field, int(is_set), stream_id)
    if not is_set:
        await tx.execute(DELETE_OLDEST, user_id, MAX_DELETED)


async def delete_all(tx: Tx, user_id: str) -> None:
    """Delete the records of a user."""
    await tx.execute(DELETE_ALL, user_id)


async def list_updates(tx: Tx, after: int, upto: int, limit: int) -> list[ProfileUpdate]:
    """List the changes in `(after, upto]`, earliest first."""
    return [ProfileUpdate(*row) for row in await tx.fetch(IN_RANGE, after, upto, limit)]


async def list_updates_of(
    tx: Tx, after: int, upto: int, limit: int, user_ids: Sequence[str]
) -> list[ProfileUpdate]:
    """List the changes of some users in `(after, upto]`, earliest first."""
    rows = await tx.fetch(OF_USERS, after, upto, limit, list(user_ids))
    return [ProfileUpdate(*row) for row in rows]


async def list_values(
    tx: Tx, user_ids: Sequence[str], fields: Sequence[str] | None
) -> list[ProfileField]:
    """List the fields of users; None is all fields."""
    if fields is None:
        rows = await tx.fetch(ALL_VALUES, list(user_ids))
    else:
        rows = await tx.fetch(VALUES, list(user_ids), list(fields))
    return [ProfileField(row[0], row[1], bytes(row[2])) for row in rows]
