"""Key backups: their versions and the room keys in them."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

STREAM = "key_backups"


class BackupRecord(NamedTuple):
    """A version of a user's backup; `auth_data` is JSON."""

    version: int
    algorithm: str
    auth_data: bytes
    etag: int
    is_deleted: int


class SessionRecord(NamedTuple):
    """The backed-up key of one session; `session_data` is JSON."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: int
    session_data: bytes


CREATE = "INSERT INTO key_backups (user_id, version, algorithm, auth_data) VALUES ($1, $2, $3, $4)"
_COLUMNS = "version, algorithm, auth_data, etag, is_deleted"
LATEST = f"""
SELECT {_COLUMNS} FROM key_backups WHERE user_id = $1 AND is_deleted = 0
ORDER BY version DESC LIMIT 1
"""
ONE = f"SELECT {_COLUMNS} FROM key_backups WHERE user_id = $1 AND version = $2"
LOCK = sql(
    lambda d: (
        f"SELECT {_COLUMNS} FROM key_backups WHERE user_id = $1 AND version = $2 {d.row_lock()}"
    )
)
COUNT = "SELECT count(*) FROM key_backup_sessions WHERE user_id = $1 AND version = $2"
SET_AUTH_DATA = "UPDATE key_backups SET auth_data = $3 WHERE user_id = $1 AND version = $2"
SET_ETAG = "UPDATE key_backups SET etag = $3 WHERE user_id = $1 AND version = $2"
DELETE = "UPDATE key_backups SET is_deleted = 1 WHERE user_id = $1 AND version = $2"
PUT = InsertRows(
    "key_backup_sessions",
    "user_id text, version bigint, room_id text, session_id text, first_message_index bigint, "
    "forwarded_count bigint, is_verified smallint, session_data bytea",
    conflict="ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET "
    "first_message_index = excluded.first_message_index, "
    "forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, "
    "session_data = excluded.session_data",
)
_SESSION = "room_id, session_id, first_message_index, forwarded_count, is_verified, session_data"
_OF_VERSION = "WHERE user_id = $1 AND version = $2"
SESSIONS = f"SELECT {_SESSION} FROM key_backup_sessions {_OF_VERSION}"
KNOWN = sql(
    lambda d: (
        f"SELECT s.room_id, s.session_id, s.first_message_index, s.forwarded_count, "
        "s.is_verified, s.session_data FROM "
        f"{d.unnest('requested', 'room_id text, session_id text', 3)} "
        "JOIN key_backup_sessions s ON s.user_id = $1 AND s.version = $2 "
        "AND s.room_id = requested.room_id AND s.session_id = requested.session_id"
    )
)
_IN_ROOM = " AND room_id = $3"
_IN_SESSION = " AND room_id = $3 AND session_id = $4"
DELETE_SESSIONS = f"DELETE FROM key_backup_sessions {_OF_VERSION}"
DELETE_ALL = tuple(
    f"DELETE FROM {table} WHERE user_id = $1" for table in ("key_backup_sessions", "key_backups")
)


async def create(tx: Tx, user_id: str, algorithm: str, auth_data: bytes) -> int:
    """Create a backup version; return its number."""
    version = (await tx.next_ids(STREAM, 1))[0]
    await tx.execute(CREATE, user_id, version, algorithm, auth_data)
    return version


async def latest(tx: Tx, user_id: str) -> BackupRecord | None:
    """Return the newest version that is not deleted."""
    row = await tx.fetchrow(LATEST, user_id)
    return None if row is None else _backup(row)


async def find(tx: Tx, user_id: str, version: int) -> BackupRecord | None:
    """Return a version, deleted or not."""
    row = await tx.fetchrow(ONE, user_id, version)
    return None if row is None else _backup(row)


async def lock(tx: Tx, user_id: str, version: int) -> BackupRecord | None:
    """Return a version and lock its row until the transaction ends."""
    row = await tx.fetchrow(LOCK, user_id, version)
    return None if row is None else _backup(row)


async def count(tx: Tx, user_id: str, version: int) -> int:
    """Count the session keys in a version."""
    return int(await tx.fetchval(COUNT, user_id, version))


async def set_auth_data(tx: Tx, user_id: str, version: int, auth_data: bytes) -> None:
    """Replace the `auth_data` of a version."""
    await tx.execute(SET_AUTH_DATA, user_id, version, auth_data)


async def set_etag(tx: Tx, user_id: str, version: int, etag: int) -> None:
    """Set the etag of a version, which changes whenever its keys do."""
    await tx.execute(SET_ETAG, user_id, version, etag)


async def delete(tx: Tx, user_id: str, version: int) -> None:
    """Delete a version's keys and mark it as deleted; its number is never reused."""
    await tx.execute(DELETE, user_id, version)
    await tx.execute(DELETE_SESSIONS, user_id, version)


async def delete_all(tx: Tx, user_id: str) -> None:
    """Delete all backup versions of a user."""
    for statement in DELETE_ALL:
        await tx.execute(statement, user_id)


async def put_sessions(
    tx: Tx, user_id: str, version: int, records: Sequence[SessionRecord]
) -> None:
    """Insert or replace session keys; each session at most once."""
    await tx.insert_rows(PUT, [(user_id, version, *record) for record in records])


async def list_sessions(
    tx: Tx, user_id: str, version: int, room_id: str | None, session_id: str | None
) -> list[SessionRecord]:
    """List the keys of a version, optionally restricted to a room or one session."""
    text, args = _restrict(SESSIONS, room_id, session_id)
    rows = await tx.fetch(text, user_id, version, *args)
    return [_session(row) for row in rows]


async def existing_sessions(
    tx: Tx, user_id: str, version: int, session_keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], SessionRecord]:
    """Return those of the sessions (room_id, session_id) whose keys a version contains."""
    room_ids = [room_id for room_id, _ in session_keys]
    session_ids = [session_id for _, session_id in session_keys]
    rows = await tx.fetch(KNOWN, user_id, version, room_ids, session_ids)
    return {(row[0], row[1]): _session(row) for row in rows}


async def delete_sessions(
    tx: Tx, user_id: str, version: int, room_id: str | None, session_id: str | None
) -> int:
    """Delete keys as restricted by room and session; return their number."""
    text, args = _restrict(DELETE_SESSIONS, room_id, session_id)
    return await tx.execute(text, user_id, version, *args)


def _restrict(text: str, room_id: str | None, session_id: str | None) -> tuple[str, list[str]]:
    if room_id is None:
        return text, []
    if session_id is None:
        return text + _IN_ROOM, [room_id]
    return text + _IN_SESSION, [room_id, session_id]


def _backup(row: Row) -> BackupRecord:
    return BackupRecord(row[0], row[1], bytes(row[2]), row[3], row[4])


def _session(row: Row) -> SessionRecord:
    return SessionRecord(
        room_id=row[0],
        session_id=row[1],
        first_message_index=row[2],
        forwarded_count=row[3],
        is_verified=row[4],
        session_data=bytes(row[5]),
    )
