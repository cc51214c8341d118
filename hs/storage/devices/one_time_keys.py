"""Keys that begin conversations with devices: each given out once, and one to fall back on.

A device's one-time keys of an algorithm lie in one row, oldest first and filled up with spaces to
one length: the next one is found by counting. Who adds some writes all anew. The keys of a device
are found by its inbox, and go with it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import orjson

from hs.storage.database import LateRows, Row, Tx
from hs.storage.dialect import Dialect, sql
from hs.storage.rows import Change, Rows


class FallbackRecord(NamedTuple):
    """A device's fallback key."""

    algorithm: str
    key_id: str
    content: bytes
    is_used: int


# Of two transactions that change the keys of one device at once, one is refused and run again.
PUT = Rows(
    "one_time_keys",
    "inbox bigint, algorithm text, amount integer, width integer, keys bytea",
    conflict="ON CONFLICT (inbox, algorithm) DO UPDATE SET taken = 0, "
    "amount = excluded.amount, width = excluded.width, keys = excluded.keys",
)
DELETE_SPENT = "DELETE FROM one_time_keys WHERE inbox = $1 AND taken = amount"
_TAKE = "UPDATE one_time_keys SET taken = taken + 1"
_TAKEN = "RETURNING inbox, substr(keys, (taken - 1) * width + 1, width)"
CLAIM = Change(
    "one_time_keys",
    sql(
        lambda d: (
            f"{_TAKE} WHERE {d.any_of('inbox', 1, 'bigint')} AND algorithm = $2 "
            f"AND taken < amount {_TAKEN}"
        )
    ),
)


def _is_wanted(d: Dialect) -> str:
    wanted = d.unnest("wanted", "inbox bigint, algorithm text")
    return f"(inbox, algorithm) IN (SELECT wanted.inbox, wanted.algorithm FROM {wanted})"


CLAIM_ANY = sql(lambda d: f"{_TAKE} WHERE {_is_wanted(d)} AND taken < amount {_TAKEN}")
PUT_FALLBACKS = Rows(
    "fallback_keys",
    "inbox bigint, algorithm text, key_id text, content bytea",
    conflict="ON CONFLICT (inbox, algorithm) "
    "DO UPDATE SET key_id = excluded.key_id, content = excluded.content, is_used = 0",
)
USE_FALLBACKS = sql(
    lambda d: (
        f"UPDATE fallback_keys SET is_used = 1 WHERE {_is_wanted(d)} "
        "RETURNING inbox, algorithm, key_id, content"
    )
)


def _of_devices(d: Dialect) -> str:
    named = f"user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
    return f"WHERE inbox IN (SELECT inbox FROM devices WHERE {named})"


DELETE = sql(lambda d: f"DELETE FROM one_time_keys {_of_devices(d)}")
DELETE_FALLBACKS = sql(lambda d: f"DELETE FROM fallback_keys {_of_devices(d)}")
_OF_DEVICE = "JOIN devices d ON d.inbox = k.inbox WHERE d.user_id = $1 AND d.device_id = $2"
COUNTS = f"""
SELECT k.algorithm, k.amount - k.taken FROM one_time_keys k {_OF_DEVICE} AND k.taken < k.amount
"""
UNUSED_FALLBACKS = f"""
SELECT k.algorithm FROM fallback_keys k {_OF_DEVICE} AND k.is_used = 0 ORDER BY k.algorithm
"""


def size_of(keys: Sequence[bytes]) -> int:
    """Tell how many bytes keys of one algorithm take together."""
    return len(keys) * max(map(len, keys), default=0)


async def put(tx: Tx, inbox: int, keys: Mapping[str, Sequence[bytes]]) -> None:
    """Set all keys that wait of some algorithms, oldest first; each an object of one by its name.

    Raises: ForeignViolation, as late as at the unit's end, if the device is gone.
    """
    rows = []
    for algorithm, waiting in keys.items():
        width = max(map(len, waiting))
        filled_up = b"".join([key.ljust(width) for key in waiting])
        rows.append((inbox, algorithm, len(waiting), width, filled_up))
    await tx.insert_rows(PUT, rows)


async def delete_spent(tx: Tx, inbox: int) -> None:
    """Forget a device's algorithms of which nothing is left."""
    await tx.execute(DELETE_SPENT, inbox)


async def counts(tx: Tx, user_id: str, device_id: str) -> dict[str, int]:
    """Count a device's keys by algorithm."""
    return {row[0]: row[1] for row in await tx.fetch(COUNTS, user_id, device_id)}


async def claim(tx: Tx, inboxes: Collection[int], algorithm: str) -> LateRows:
    """Take the oldest key of each device away, where there is one; see `claimed`."""
    return await tx.change(CLAIM, list(inboxes), algorithm)


async def claim_any(tx: Tx, wanted: Mapping[int, str]) -> list[tuple[int, bytes]]:
    """Do so at once, for an algorithm of each inbox; give them as `claimed` does."""
    return claimed(await tx.fetch(CLAIM_ANY, list(wanted), list(wanted.values())))


def claimed(rows: Sequence[Row]) -> list[tuple[int, bytes]]:
    """Read what a claim has given: (inbox, key as it was put)."""
    return [(row[0], bytes(row[1]).rstrip()) for row in rows]


async def put_fallbacks(tx: Tx, inbox: int, keys: Sequence[tuple[str, str, bytes]]) -> None:
    """Set fallback keys (algorithm, key_id, content), not used yet; one of each algorithm."""
    await tx.insert_rows(PUT_FALLBACKS, [(inbox, *key) for key in keys])


async def use_fallbacks(tx: Tx, wanted: Mapping[int, str]) -> list[tuple[int, bytes]]:
    """Give fallback keys out in the same way, where there are any, and note that they are used."""
    rows = await tx.fetch(USE_FALLBACKS, list(wanted), list(wanted.values()))
    return [(row[0], shown(row[1], row[2], bytes(row[3]))) for row in rows]


def shown(algorithm: str, key_id: str, content: bytes) -> bytes:
    """Write an object of one key by its name, from the key in JSON."""
    return b"{%b:%b}" % (orjson.dumps(f"{algorithm}:{key_id}"), content)


async def delete(tx: Tx, user_id: str, device_ids: Sequence[str]) -> None:
    """Forget the keys of devices that are about to be deleted.

    They would go with them, but whoever changes them at that moment holds them, and waits for the
    device.
    """
    await tx.execute(DELETE, user_id, list(device_ids))
    await tx.execute(DELETE_FALLBACKS, user_id, list(device_ids))


async def unused_fallbacks(tx: Tx, user_id: str, device_id: str) -> list[str]:
    """List the algorithms of a device's fallback keys that were never given out."""
    return [row[0] for row in await tx.fetch(UNUSED_FALLBACKS, user_id, device_id)]
