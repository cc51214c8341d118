"""Keys that begin conversations with devices: each given out once, and one to fall back on.

One-time keys lie in batches as they were uploaded: the next one is found by counting. Batches are
numbered within their device, whose row tells the last number: so of two uploads at once through
different owners one is refused by the database, and run again.
"""

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

import orjson

from hs.storage.database import Tx
from hs.storage.dialect import Dialect, sql
from hs.storage.rows import Rows, UpdateRows

MAX_BATCH_BYTES: Final = 32 * 1024
"""Most in one batch, but for a larger key alone: on SQLite each claim writes all of it again."""


class Wanted(NamedTuple):
    """A key is wanted of this device, for this algorithm."""

    user_id: str
    device_id: str
    algorithm: str


class ClaimedKey(NamedTuple):
    """A key that was given out; `shown` is an object in JSON, of the key by its name."""

    user_id: str
    device_id: str
    algorithm: str
    shown: bytes


class FallbackRecord(NamedTuple):
    """A device's fallback key."""

    algorithm: str
    key_id: str
    content: bytes
    is_used: int


LAST_BATCH = UpdateRows("devices", "user_id text, device_id text", "last_batch bigint")
INSERT = Rows(
    "key_batches",
    "user_id text, device_id text, algorithm text, number bigint, amount integer, width integer, "
    "keys bytea",
)
DELETE_SPENT = "DELETE FROM key_batches WHERE user_id = $1 AND device_id = $2 AND taken = amount"
COUNTS = """
SELECT algorithm, sum(amount - taken) FROM key_batches WHERE user_id = $1 AND device_id = $2
GROUP BY algorithm HAVING sum(amount - taken) > 0
"""


_WANTED = "user_id text, device_id text, algorithm text"
_KEY = ("user_id", "device_id", "algorithm")


def _each_wanted(d: Dialect, first: str) -> str:
    """Say that a row lies in one of the places that `first` selects for what is wanted."""
    return d.found_by(d.place(), f"SELECT ({first}) FROM {d.unnest('wanted', _WANTED)}")


def _first_batch(d: Dialect) -> str:
    return (
        f"SELECT k.{d.place()} FROM key_batches k "
        f"WHERE {d.same_key('k', 'wanted', _KEY, then='number')} AND k.taken < k.amount "
        "ORDER BY k.user_id, k.device_id, k.algorithm, k.number LIMIT 1"
    )


def _fallback(d: Dialect) -> str:
    return (
        f"SELECT k.{d.place()} FROM fallback_keys k WHERE k.user_id = wanted.user_id "
        "AND k.device_id = wanted.device_id AND k.algorithm = wanted.algorithm"
    )


# Of two transactions that change the same batch at once, one is refused and run again.
CLAIM = sql(
    lambda d: (
        "UPDATE key_batches SET taken = taken + 1 "
        f"WHERE {_each_wanted(d, _first_batch(d))} AND taken < amount RETURNING "
        "user_id, device_id, algorithm, substr(keys, (taken - 1) * width + 1, width)"
    )
)
DELETE = sql(
    lambda d: f"DELETE FROM key_batches WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
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
        f"WHERE {_each_wanted(d, _fallback(d))} "
        "RETURNING user_id, device_id, algorithm, key_id, content"
    )
)
UNUSED_FALLBACKS = """
SELECT algorithm FROM fallback_keys WHERE user_id = $1 AND device_id = $2 AND is_used = 0
ORDER BY algorithm
"""
DELETE_FALLBACKS = sql(
    lambda d: f"DELETE FROM fallback_keys WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
)


async def add(
    tx: Tx, user_id: str, device_id: str, last: int, keys: Sequence[tuple[str, bytes]]
) -> None:
    """Add keys (algorithm, key by its name in JSON) behind the batch with the number `last`."""
    rows = []
    number = last
    # Whoever counts must find the keys of a batch equally long.
    for (algorithm, width), group in itertools.groupby(sorted(keys, key=_algorithm), _kind):
        rest = [shown for _, shown in group]
        most = max(1, MAX_BATCH_BYTES // width)
        while rest:
            number += 1
            held, rest = rest[:most], rest[most:]
            rows.append((user_id, device_id, algorithm, number, len(held), width, b"".join(held)))
    if rows:
        await tx.update_rows(LAST_BATCH, [(user_id, device_id, number)])
        await tx.insert_rows(INSERT, rows)


async def delete_spent(tx: Tx, user_id: str, device_id: str) -> None:
    """Forget a device's batches of which nothing is left; before others are added."""
    await tx.execute(DELETE_SPENT, user_id, device_id)


async def counts(tx: Tx, user_id: str, device_id: str) -> dict[str, int]:
    """Count a device's keys by algorithm."""
    return {row[0]: row[1] for row in await tx.fetch(COUNTS, user_id, device_id)}


async def claim(tx: Tx, wanted: Sequence[Wanted]) -> list[ClaimedKey]:
    """Take the oldest key of each device and algorithm away, where there is one; none twice."""
    if not wanted:
        return []
    return [ClaimedKey._make(row) for row in await tx.fetch(CLAIM, *_lists(wanted))]


async def put_fallbacks(
    tx: Tx, user_id: str, device_id: str, keys: Sequence[tuple[str, str, bytes]]
) -> None:
    """Set fallback keys (algorithm, key_id, content), not used yet; one of each algorithm."""
    await tx.insert_rows(PUT_FALLBACKS, [(user_id, device_id, *key) for key in keys])


async def use_fallbacks(tx: Tx, wanted: Sequence[Wanted]) -> list[ClaimedKey]:
    """Give fallback keys out, where there are any, and note that they are used."""
    if not wanted:
        return []
    return [
        ClaimedKey(row[0], row[1], row[2], shown(row[2], row[3], bytes(row[4])))
        for row in await tx.fetch(USE_FALLBACKS, *_lists(wanted))
    ]


def shown(algorithm: str, key_id: str, content: bytes) -> bytes:
    """Write an object of one key by its name, from the key in JSON."""
    return b"{%b:%b}" % (orjson.dumps(f"{algorithm}:{key_id}"), content)


async def unused_fallbacks(tx: Tx, user_id: str, device_id: str) -> list[str]:
    """List the algorithms of a device's fallback keys that were never given out."""
    return [row[0] for row in await tx.fetch(UNUSED_FALLBACKS, user_id, device_id)]


async def delete(tx: Tx, user_id: str, device_ids: Sequence[str]) -> None:
    """Forget all keys of devices."""
    await tx.execute(DELETE, user_id, list(device_ids))
    await tx.execute(DELETE_FALLBACKS, user_id, list(device_ids))


def _lists(wanted: Sequence[Wanted]) -> list[list[str]]:
    return [list(one) for one in zip(*wanted, strict=True)]


def _algorithm(key: tuple[str, bytes]) -> str:
    return key[0]


def _kind(key: tuple[str, bytes]) -> tuple[str, int]:
    return key[0], len(key[1])
