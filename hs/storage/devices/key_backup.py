"""Key backups: their versions and the room keys in them."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

STREAM = "key_backups"
MAX_DELETED_AT_ONCE: Final = 500


class BackupRecord(NamedTuple):
    """A version of a user's backup; `auth_data` is JSON."""

    version: int
    algorithm: str
    auth_data: bytes
    etag: int
    is_deleted: int
    key_count: int
    key_bytes: int


class SessionRecord(NamedTuple):
    """The backed-up key of one session; `session_data` is JSON."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: int
    session_data: bytes


CREATE = "INSERT INTO key_backups (user_id, version, algorithm, auth_data) VALUES ($1, $2, $3, $4)"
_COLUMNS = "version, algorithm, auth_data, etag, is_deleted, key_count, key_bytes"
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
TOTALS = """
SELECT COALESCE(sum(1 - is_deleted), 0), COALESCE(sum(key_count), 0), COALESCE(sum(key_bytes), 0)
FROM key_backups WHERE user_id = $1
"""
SET_AUTH_DATA = "UPDATE key_backups SET auth_data = $3 WHERE user_id = $1 AND version = $2"
SET_KEYS = """
UPDATE key_backups SET etag = $3, key_count = $4, key_bytes = $5 WHERE user_id = $1 AND version = $2
"""
DELETE = "UPDATE key_backups SET is_deleted = 1, auth_data = $3 WHERE user_id = $1 AND version = $2"
DELETE_ALL = "UPDATE key_backups SET is_deleted = 1, auth_data = $2 WHERE user_id = $1"
FORGET_DELETED = """
DELETE FROM key_backups WHERE user_id = $1 AND is_deleted = 1 AND key_count = 0 AND version <= (
    SELECT version FROM key_backups WHERE user_id = $1 AND is_deleted = 1
    ORDER BY version DESC LIMIT 1 OFFSET $2
)
"""
_LEFT = f"SELECT {_COLUMNS}, user_id FROM key_backups WHERE is_deleted = 1 AND key_count > 0"
LEFTOVER = sql(lambda d: f"{_LEFT} LIMIT 1 {d.row_lock()}")
LEFTOVER_OF_USER = sql(lambda d: f"{_LEFT} AND user_id = $1 LIMIT 1 {d.row_lock()}")
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
SESSION_IDS = (
    f"SELECT room_id, session_id, length(session_data) FROM key_backup_sessions {_OF_VERSION}"
)
DELETE_SESSION = f"""
DELETE FROM key_backup_sessions {_OF_VERSION} AND room_id = $3 AND session_id = $4
"""
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


async def totals(tx: Tx, user_id: str) -> tuple[int, int, int]:
    """Return the number of a user's versions, and the number and bytes of all stored keys."""
    row = await tx.fetchrow(TOTALS, user_id)
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


async def set_auth_data(tx: Tx, user_id: str, version: int, auth_data: bytes) -> None:
    """Replace the `auth_data` of a version."""
    await tx.execute(SET_AUTH_DATA, user_id, version, auth_data)


async def change_keys(
    tx: Tx, user_id: str, backup: BackupRecord, added_count: int, added_bytes: int
) -> BackupRecord:
    """Store that the keys of a version have changed; return it."""
    changed = backup._replace(
        etag=backup.etag + 1,
        key_count=backup.key_count + added_count,
        key_bytes=backup.key_bytes + added_bytes,
    )
    await tx.execute(
        SET_KEYS, user_id, changed.version, changed.etag, changed.key_count, changed.key_bytes
    )
    return changed


async def delete(tx: Tx, user_id: str, version: int) -> None:
    """Mark a version as deleted; its number is never reused."""
    await tx.execute(DELETE, user_id, version, b"")


async def delete_all(tx: Tx, user_id: str) -> None:
    """Mark all versions of a user as deleted."""
    await tx.execute(DELETE_ALL, user_id, b"")


async def forget_deleted(tx: Tx, user_id: str, kept: int) -> None:
    """Delete the rows of deleted versions without keys, except the latest `kept`."""
    await tx.execute(FORGET_DELETED, user_id, kept)


async def delete_leftovers(tx: Tx, user_id: str | None = None) -> bool:
    """Delete some keys of a deleted version, of a user or of any; return False if none are left."""
    query, args = (LEFTOVER, []) if user_id is None else (LEFTOVER_OF_USER, [user_id])
    row = await tx.fetchrow(query, *args)
    if row is None:
        return False
    *backup, owner = tuple(row)
    await delete_keys(tx, owner, BackupRecord(*backup), None, None)
    return True


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


async def delete_keys(
    tx: Tx, user_id: str, backup: BackupRecord, room_id: str | None, session_id: str | None
) -> tuple[BackupRecord, bool]:
    """Delete keys as restricted by room and session, at most MAX_DELETED_AT_ONCE.

    Return the version as it is afterwards, and whether no such key is left.
    """
    text, args = _restrict(SESSION_IDS, room_id, session_id)
    rows = await tx.fetch(f"{text} LIMIT {MAX_DELETED_AT_ONCE}", user_id, backup.version, *args)
    if rows:
        keys = [(user_id, backup.version, row[0], row[1]) for row in rows]
        await tx.executemany(DELETE_SESSION, keys)
        size_bytes = sum(row[2] for row in rows)
        backup = await change_keys(tx, user_id, backup, -len(rows), -size_bytes)
    return backup, len(rows) < MAX_DELETED_AT_ONCE


def _restrict(text: str, room_id: str | None, session_id: str | None) -> tuple[str, list[str]]:
    if room_id is None:
        return text, []
    if session_id is None:
        return text + _IN_ROOM, [room_id]
    return text + _IN_SESSION, [room_id, session_id]


def _backup(row: Row) -> BackupRecord:
    version, algorithm, auth_data, *numbers = tuple(row)
    return BackupRecord(version, algorithm, bytes(auth_data), *numbers)


def _session(row: Row) -> SessionRecord:
    return SessionRecord(
        room_id=row[0],
        session_id=row[1],
        first_message_index=row[2],
        forwarded_count=row[3],
        is_verified=row[4],
        session_data=bytes(row[5]),
    )
