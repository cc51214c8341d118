"""The presence that was last published for each user."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

SAVE = InsertRows(
    "presence",
    "user_id text, state text, last_active_ms bigint, status_msg text, currently_active smallint",
    conflict=(
        "ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, "
        "last_active_ms = excluded.last_active_ms, status_msg = excluded.status_msg, "
        "currently_active = excluded.currently_active"
    ),
)
_COLUMNS = "SELECT user_id, state, last_active_ms, status_msg, currently_active FROM presence"
OF_USERS = sql(lambda d: f"{_COLUMNS} WHERE {d.any_of('user_id', 1, 'text')}")
NOT_OFFLINE = f"{_COLUMNS} WHERE state <> 'offline'"


class PresenceRecord(NamedTuple):
    """A row of `presence`."""

    user_id: str
    state: str
    last_active_ms: int
    status_msg: str | None
    currently_active: bool


async def save(tx: Tx, records: Sequence[PresenceRecord]) -> None:
    """Insert or replace presence; each user at most once."""
    await tx.insert_rows(SAVE, [(*record[:4], int(record[4])) for record in records])


async def list_of_users(tx: Tx, user_ids: Sequence[str]) -> list[PresenceRecord]:
    """Return the last published presence of users; users without any are left out."""
    return [_record(row) for row in await tx.fetch(OF_USERS, list(user_ids))]


async def list_not_offline(tx: Tx) -> list[PresenceRecord]:
    """List the presence of all users who are not offline."""
    return [_record(row) for row in await tx.fetch(NOT_OFFLINE)]


def _record(row: Row) -> PresenceRecord:
    return PresenceRecord(row[0], row[1], row[2], row[3], bool(row[4]))
