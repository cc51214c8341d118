"""Device lists of users of other servers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

FIRST_MARK = 1
ANY_TIME = (1 << 63) - 1

ADD_LISTS = InsertRows(
    "remote_device_lists",
    "user_id text, mark bigint, is_stale smallint, fetch_ms bigint, failures bigint",
    conflict="ON CONFLICT (user_id) DO NOTHING",
)
_COLUMNS = "user_id, stream_id, mark, is_stale, failures"
LISTS = sql(
    lambda d: f"SELECT {_COLUMNS} FROM remote_device_lists WHERE {d.any_of('user_id', 1, 'text')}"
)
STALE = f"""
SELECT {_COLUMNS}, fetch_ms FROM remote_device_lists
WHERE is_stale = 1 AND fetch_ms >= $1 AND (fetch_ms > $1 OR user_id > $2)
ORDER BY fetch_ms, user_id LIMIT $3
"""
MARK_STALE = """
UPDATE remote_device_lists SET is_stale = 1, mark = mark + 1, fetch_ms = $2, failures = 0
WHERE user_id = $1
"""
POSTPONE = """
UPDATE remote_device_lists SET fetch_ms = $2, failures = failures + 1
WHERE user_id = $1 AND is_stale = 1
"""
ADVANCE = "UPDATE remote_device_lists SET stream_id = $2 WHERE user_id = $1"
STORED = """
UPDATE remote_device_lists SET stream_id = $2, failures = 0, fetch_ms = $4,
is_stale = CASE WHEN mark = $3 THEN 0 ELSE 1 END
WHERE user_id = $1
"""
# Users who share a room with a user of this server, by member events before $3.
SHARING = sql(
    lambda d: (
        "SELECT DISTINCT theirs.state_key FROM current_state theirs "
        "JOIN room_servers ours ON ours.room_id = theirs.room_id "
        "AND ours.server = $2 AND ours.joined_members > 0 "
        f"WHERE {d.any_of('theirs.state_key', 1, 'text')} AND theirs.membership = 'join' "
        "AND theirs.stream_id < $3"
    )
)
NEXT_LISTS = "SELECT user_id FROM remote_device_lists WHERE user_id > $1 ORDER BY user_id LIMIT $2"
DEVICES = sql(
    lambda d: (
        "SELECT user_id, device_id, keys FROM remote_devices "
        f"WHERE {d.any_of('user_id', 1, 'text')}"
    )
)
CROSS_SIGNING = sql(
    lambda d: (
        "SELECT user_id, usage, content FROM remote_cross_signing_keys "
        f"WHERE {d.any_of('user_id', 1, 'text')}"
    )
)
PUT_DEVICES = InsertRows(
    "remote_devices",
    "user_id text, device_id text, keys bytea",
    conflict="ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys",
)
PUT_KEYS = InsertRows(
    "remote_cross_signing_keys",
    "user_id text, usage text, content bytea",
    conflict="ON CONFLICT (user_id, usage) DO UPDATE SET content = excluded.content",
)
DELETE_DEVICE = "DELETE FROM remote_devices WHERE user_id = $1 AND device_id = $2"
DELETE_DEVICES = sql(lambda d: f"DELETE FROM remote_devices WHERE {d.any_of('user_id', 1, 'text')}")
DELETE_KEYS = sql(
    lambda d: f"DELETE FROM remote_cross_signing_keys WHERE {d.any_of('user_id', 1, 'text')}"
)
DELETE_LISTS = sql(
    lambda d: f"DELETE FROM remote_device_lists WHERE {d.any_of('user_id', 1, 'text')}"
)


class RemoteListRecord(NamedTuple):
    """What is known of the device list of a user; `mark` counts how often it became stale."""

    user_id: str
    stream_id: int | None
    mark: int
    is_stale: int
    failures: int


class RemoteKeys(NamedTuple):
    """The keys of a user's devices by device ID, and the cross-signing keys by usage, as JSON."""

    devices: dict[str, bytes]
    cross_signing: dict[str, bytes]


async def add_lists(tx: Tx, user_ids: Sequence[str], fetch_ms: int) -> None:
    """Begin to keep the lists of users, as stale ones; known lists stay as they are."""
    await tx.insert_rows(ADD_LISTS, [(user_id, FIRST_MARK, 1, fetch_ms, 0) for user_id in user_ids])


async def find_lists(tx: Tx, user_ids: Sequence[str]) -> dict[str, RemoteListRecord]:
    """Return what is known of the lists of users."""
    rows = await tx.fetch(LISTS, list(user_ids))
    return {row[0]: RemoteListRecord(*row) for row in rows}


async def stale_lists(
    tx: Tx, after_ms: int, after_user_id: str, limit: int
) -> list[tuple[RemoteListRecord, int]]:
    """List stale lists and the times (ms) to fetch them, in that order, after one of them."""
    rows = await tx.fetch(STALE, after_ms, after_user_id, limit)
    return [(RemoteListRecord(*list(row)[:-1]), row[-1]) for row in rows]


async def mark_stale(tx: Tx, user_id: str, fetch_ms: int) -> None:
    """Mark a list as stale, also one that is stale already."""
    await tx.execute(MARK_STALE, user_id, fetch_ms)


async def postpone(tx: Tx, user_id: str, fetch_ms: int) -> None:
    """Count a failure to fetch a list."""
    await tx.execute(POSTPONE, user_id, fetch_ms)


async def advance(tx: Tx, user_id: str, stream_id: int) -> None:
    """Record the update up to which a list is complete."""
    await tx.execute(ADVANCE, user_id, stream_id)


async def load_keys(tx: Tx, user_ids: Sequence[str]) -> dict[str, RemoteKeys]:
    """Return the stored keys of users; of users without any, empty ones."""
    keys = {user_id: RemoteKeys({}, {}) for user_id in user_ids}
    for row in await tx.fetch(DEVICES, list(user_ids)):
        keys[row[0]].devices[row[1]] = bytes(row[2])
    for row in await tx.fetch(CROSS_SIGNING, list(user_ids)):
        keys[row[0]].cross_signing[row[1]] = bytes(row[2])
    return keys


async def put_device(tx: Tx, user_id: str, device_id: str, keys: bytes) -> None:
    """Insert or replace the keys of a device."""
    await tx.insert_rows(PUT_DEVICES, [(user_id, device_id, keys)])


async def delete_device(tx: Tx, user_id: str, device_id: str) -> None:
    """Delete a device."""
    await tx.execute(DELETE_DEVICE, user_id, device_id)


async def put_cross_signing(tx: Tx, user_id: str, keys: Mapping[str, bytes]) -> None:
    """Insert or replace cross-signing keys of a user, by usage."""
    await tx.insert_rows(PUT_KEYS, [(user_id, usage, content) for usage, content in keys.items()])


async def replace_keys(tx: Tx, user_id: str, keys: RemoteKeys) -> None:
    """Replace all keys of a user."""
    await tx.execute(DELETE_DEVICES, [user_id])
    await tx.execute(DELETE_KEYS, [user_id])
    await tx.insert_rows(
        PUT_DEVICES, [(user_id, device_id, content) for device_id, content in keys.devices.items()]
    )
    await put_cross_signing(tx, user_id, keys.cross_signing)


async def set_fetched(
    tx: Tx, user_id: str, stream_id: int | None, mark: int, fetch_ms: int
) -> None:
    """Record that a list was fetched; it stays stale if it became so again since this mark."""
    await tx.execute(STORED, user_id, stream_id, mark, fetch_ms)


async def users_sharing(
    tx: Tx, user_ids: Sequence[str], server_name: str, before: int = ANY_TIME
) -> list[str]:
    """Return those users who share a room with users of this server.

    With `before`, only rooms count in which their member event is before that stream ID.
    """
    if not user_ids:
        return []
    return [row[0] for row in await tx.fetch(SHARING, list(user_ids), server_name, before)]


async def list_users(tx: Tx, after: str, limit: int) -> list[str]:
    """List users with a list, in order."""
    return [row[0] for row in await tx.fetch(NEXT_LISTS, after, limit)]


async def delete_lists(tx: Tx, user_ids: Sequence[str]) -> None:
    """Delete all that is known of users."""
    for delete in (DELETE_DEVICES, DELETE_KEYS, DELETE_LISTS):
        await tx.execute(delete, list(user_ids))
