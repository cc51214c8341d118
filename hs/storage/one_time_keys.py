"""Keys that begin conversations with devices: each given out once, and one to fall back on."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import Dialect, Statement, sql
from hs.storage.rows import Rows


class Wanted(NamedTuple):
    """A key is wanted of this device, for this algorithm."""

    user_id: str
    device_id: str
    algorithm: str


class ClaimedKey(NamedTuple):
    """A key that was given out; `content` is canonical JSON."""

    user_id: str
    device_id: str
    algorithm: str
    key_id: str
    content: bytes


class FallbackRecord(NamedTuple):
    """A device's fallback key."""

    algorithm: str
    key_id: str
    content: bytes
    is_used: int


INSERT = Rows(
    "one_time_keys",
    "user_id text, device_id text, algorithm text, key_id text, content bytea",
    # The same upload came through another process at the same moment.
    conflict="ON CONFLICT (user_id, device_id, algorithm, key_id) DO NOTHING",
    numbered="id",
    stream="one_time_keys",
)
COUNTS = """
SELECT algorithm, count(*) FROM one_time_keys WHERE user_id = $1 AND device_id = $2
GROUP BY algorithm
"""
_RETURNING = "RETURNING user_id, device_id, algorithm, key_id, content"


def _each_wanted(d: Dialect, table: str, order: str = "") -> str:
    """Say that a row is the first of a device and algorithm that are wanted."""
    wanted = d.unnest("wanted", "user_id text, device_id text, algorithm text")
    first = (
        f"SELECT k.{d.place()} FROM {table} k WHERE k.user_id = wanted.user_id "
        f"AND k.device_id = wanted.device_id AND k.algorithm = wanted.algorithm {order} LIMIT 1"
    )
    return d.found_by(d.place(), f"SELECT ({first}) FROM {wanted}")


# Two claims at once delete the same rows: the second finds them gone, and gets none of them.
CLAIM = sql(
    lambda d: (
        "DELETE FROM one_time_keys "
        f"WHERE {_each_wanted(d, 'one_time_keys', 'ORDER BY k.id')} {_RETURNING}"
    )
)
DELETE = sql(
    lambda d: f"DELETE FROM one_time_keys WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
)
PUT_FALLBACKS = Rows(
    "fallback_keys",
    "user_id text, device_id text, algorithm text, key_id text, content bytea",
    conflict="ON CONFLICT (user_id, device_id, algorithm) "
    "DO UPDATE SET key_id = excluded.key_id, content = excluded.content, is_used = 0",
)
USE_FALLBACKS = sql(
    lambda d: (
        "UPDATE fallback_keys SET is_used = 1 "
        f"WHERE {_each_wanted(d, 'fallback_keys')} {_RETURNING}"
    )
)
UNUSED_FALLBACKS = """
SELECT algorithm FROM fallback_keys WHERE user_id = $1 AND device_id = $2 AND is_used = 0
ORDER BY algorithm
"""
DELETE_FALLBACKS = sql(
    lambda d: f"DELETE FROM fallback_keys WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
)


async def add(tx: Tx, user_id: str, device_id: str, keys: Sequence[tuple[str, str, bytes]]) -> None:
    """Add keys (algorithm, key_id, content) that the device has not got."""
    await tx.insert_rows(INSERT, [(user_id, device_id, *key) for key in keys])


async def counts(tx: Tx, user_id: str, device_id: str) -> dict[str, int]:
    """Count a device's keys by algorithm."""
    return {row[0]: row[1] for row in await tx.fetch(COUNTS, user_id, device_id)}


async def claim(tx: Tx, wanted: Sequence[Wanted]) -> list[ClaimedKey]:
    """Take the oldest key of each device and algorithm away, where there is one; none twice."""
    return await _claimed(tx, CLAIM, wanted)


async def put_fallbacks(
    tx: Tx, user_id: str, device_id: str, keys: Sequence[tuple[str, str, bytes]]
) -> None:
    """Set fallback keys (algorithm, key_id, content), not used yet; one of each algorithm."""
    await tx.insert_rows(PUT_FALLBACKS, [(user_id, device_id, *key) for key in keys])


async def use_fallbacks(tx: Tx, wanted: Sequence[Wanted]) -> list[ClaimedKey]:
    """Give fallback keys out, where there are any, and note that they are used."""
    return await _claimed(tx, USE_FALLBACKS, wanted)


async def unused_fallbacks(tx: Tx, user_id: str, device_id: str) -> list[str]:
    """List the algorithms of a device's fallback keys that were never given out."""
    return [row[0] for row in await tx.fetch(UNUSED_FALLBACKS, user_id, device_id)]


async def delete(tx: Tx, user_id: str, device_ids: Sequence[str]) -> None:
    """Forget all keys of devices."""
    await tx.execute(DELETE, user_id, list(device_ids))
    await tx.execute(DELETE_FALLBACKS, user_id, list(device_ids))


async def _claimed(tx: Tx, query: Statement, wanted: Sequence[Wanted]) -> list[ClaimedKey]:
    if not wanted:
        return []
    rows = await tx.fetch(query, *[list(one) for one in zip(*wanted, strict=True)])
    return [ClaimedKey(row[0], row[1], row[2], row[3], bytes(row[4])) for row in rows]
