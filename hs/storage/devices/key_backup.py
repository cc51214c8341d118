"""Key backups: their versions, and the sessions' keys in them."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rows import Rows

STREAM = "key_backups"


class BackupRecord(NamedTuple):
    """One version of a user's backup; `auth_data` is JSON."""

    version: int
    algorithm: str
    auth_data: bytes
    etag: int
    is_deleted: int


class SessionRecord(NamedTuple):
    """The key of one session; `session_data` is JSON."""

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
PUT = Rows(
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
        f"{d.unnest('wanted', 'room_id text, session_id text', 3)} "
        "JOIN key_backup_sessions s ON s.user_id = $1 AND s.version = $2 "
        "AND s.room_id = wanted.room_id AND s.session_id = wanted.session_id"
    )
)
_IN_ROOM = " AND room_id = $3"
_ONE_SESSION = " AND room_id = $3 AND session_id = $4"
DELETE_SESSIONS = f"DELETE FROM key_backup_sessions {_OF_VERSION}"
DELETE_ALL = tuple(
    f"DELETE FROM {table} WHERE user_id = $1" for table in ("key_backup_sessions", "key_backups")
)


async def create(tx: Tx, user_id: str, algorithm: str, auth_data: bytes) -> int:
    """Begin a new version; give its number."""
    version = (await tx.next_ids(STREAM, 1))[0]
    await tx.execute(CREATE, user_id, version, algorithm, auth_data)
    return version


async def latest(tx: Tx, user_id: str) -> BackupRecord | None:
    """Give the version that takes keys."""
    row = await tx.fetchrow(LATEST, user_id)
    return None if row is None else _backup(row)


async def find(tx: Tx, user_id: str, version: int) -> BackupRecord | None:
    """Give a version, deleted or not."""
    row = await tx.fetchrow(ONE, user_id, version)
    return None if row is None else _backup(row)


async def lock(tx: Tx, user_id: str, version: int) -> BackupRecord | None:
    """Give a version, and let nobody else change it until the unit is over."""
    row = await tx.fetchrow(LOCK, user_id, version)
    return None if row is None else _backup(row)


async def count(tx: Tx, user_id: str, version: int) -> int:
    """Count the keys in a version."""
    return int(await tx.fetchval(COUNT, user_id, version))


async def set_auth_data(tx: Tx, user_id: str, version: int, auth_data: bytes) -> None:
    """Set what says how keys are encrypted."""
    await tx.execute(SET_AUTH_DATA, user_id, version, auth_data)


async def set_etag(tx: Tx, user_id: str, version: int, etag: int) -> None:
    """Note that keys changed."""
    await tx.execute(SET_ETAG, user_id, version, etag)


async def delete(tx: Tx, user_id: str, version: int) -> None:
    """Delete a version with its keys; that it was there is remembered."""
    await tx.execute(DELETE, user_id, version)
    await tx.execute(DELETE_SESSIONS, user_id, version)


async def delete_all(tx: Tx, user_id: str) -> None:
    """Forget all backups of a user, and that there were any."""
    for statement in DELETE_ALL:
        await tx.execute(statement, user_id)


async def put_sessions(
    tx: Tx, user_id: str, version: int, sessions: Sequence[SessionRecord]
) -> None:
    """Set keys; no session twice."""
    await tx.insert_rows(PUT, [(user_id, version, *session) for session in sessions])


async def sessions(
    tx: Tx, user_id: str, version: int, room_id: str | None, session_id: str | None
) -> list[SessionRecord]:
    """List the keys of a version, or of one of its rooms, or of one session."""
    text, args = _narrowed(SESSIONS, room_id, session_id)
    rows = await tx.fetch(text, user_id, version, *args)
    return [_session(row) for row in rows]


async def known_sessions(
    tx: Tx, user_id: str, version: int, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], SessionRecord]:
    """Give those of the sessions (room_id, session_id) that a version has keys of."""
    rooms, ids = [one[0] for one in wanted], [one[1] for one in wanted]
    rows = await tx.fetch(KNOWN, user_id, version, rooms, ids)
    return {(row[0], row[1]): _session(row) for row in rows}


async def delete_sessions(
    tx: Tx, user_id: str, version: int, room_id: str | None, session_id: str | None
) -> int:
    """Delete keys, as narrowed down; give how many."""
    text, args = _narrowed(DELETE_SESSIONS, room_id, session_id)
    return await tx.execute(text, user_id, version, *args)


def _narrowed(text: str, room_id: str | None, session_id: str | None) -> tuple[str, list[str]]:
    if room_id is None:
        return text, []
    if session_id is None:
        return text + _IN_ROOM, [room_id]
    return text + _ONE_SESSION, [room_id, session_id]


def _backup(row: Row) -> BackupRecord:
    return BackupRecord(row[0], row[1], bytes(row[2]), row[3], row[4])


def _session(row: Row) -> SessionRecord:
    return SessionRecord(row[0], row[1], row[2], row[3], row[4], bytes(row[5]))
