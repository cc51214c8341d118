"""One-time keys and fallback keys of devices.

Storage: the unclaimed one-time keys of a device and an algorithm are one row of `one_time_keys`,
oldest first. Each key is stored as it is returned by a claim, a JSON object
`{"algorithm:key_id": …}`, padded with spaces to `width` bytes. `taken` counts the keys that were
claimed, so a claim increments it and cuts the next key out of `keys`; it rewrites no key. Adding
keys replaces the whole row.

Rules:

- No key is claimed twice: the increment of `taken` and the RETURNING are one statement, and
  concurrent claims of one row wait for each other. If a connection is lost during the commit, the
  claimed key is lost rather than returned again.
- An upload that replaces a row cannot undo a claim made since it read the row: on PostgreSQL the
  two updates conflict, and one unit is run again; on SQLite units do not overlap.
- Keys belong to the inbox of a device. A new device of the same name has another inbox, and does
  not inherit the keys of its predecessor.
- A deletion removes the keys before the device, see `delete`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import orjson

from hs.storage.database import DeferredRows, Row, Tx
from hs.storage.dialect import Dialect, sql
from hs.storage.rows import ChangeReturning, InsertRows


class FallbackRecord(NamedTuple):
    """A device's fallback key for one algorithm."""

    algorithm: str
    key_id: str
    content: bytes
    is_used: int


# On PostgreSQL, concurrent changes of one row end in a conflict, and one unit is run again.
PUT = InsertRows(
    "one_time_keys",
    "inbox bigint, algorithm text, amount integer, width integer, keys bytea",
    conflict="ON CONFLICT (inbox, algorithm) DO UPDATE SET taken = 0, "
    "amount = excluded.amount, width = excluded.width, keys = excluded.keys",
)
DELETE_SPENT = "DELETE FROM one_time_keys WHERE inbox = $1 AND taken = amount"
_CLAIM_NEXT = "UPDATE one_time_keys SET taken = taken + 1"
_RETURN_CLAIMED = "RETURNING inbox, substr(keys, (taken - 1) * width + 1, width)"
CLAIM = ChangeReturning(
    "one_time_keys",
    sql(
        lambda d: (
            f"{_CLAIM_NEXT} WHERE {d.any_of('inbox', 1, 'bigint')} AND algorithm = $2 "
            f"AND taken < amount {_RETURN_CLAIMED}"
        )
    ),
)


def _matches_claim(d: Dialect) -> str:
    claims = d.unnest("claims", "inbox bigint, algorithm text")
    return f"(inbox, algorithm) IN (SELECT claims.inbox, claims.algorithm FROM {claims})"


CLAIM_ANY = sql(
    lambda d: f"{_CLAIM_NEXT} WHERE {_matches_claim(d)} AND taken < amount {_RETURN_CLAIMED}"
)
PUT_FALLBACKS = InsertRows(
    "fallback_keys",
    "inbox bigint, algorithm text, key_id text, content bytea",
    conflict="ON CONFLICT (inbox, algorithm) "
    "DO UPDATE SET key_id = excluded.key_id, content = excluded.content, is_used = 0",
)
USE_FALLBACKS = sql(
    lambda d: (
        f"UPDATE fallback_keys SET is_used = 1 WHERE {_matches_claim(d)} "
        "RETURNING inbox, algorithm, key_id, content"
    )
)


def _of_devices(d: Dialect) -> str:
    devices = f"user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
    return f"WHERE inbox IN (SELECT inbox FROM devices WHERE {devices})"


DELETE = sql(lambda d: f"DELETE FROM one_time_keys {_of_devices(d)}")
DELETE_FALLBACKS = sql(lambda d: f"DELETE FROM fallback_keys {_of_devices(d)}")
_OF_DEVICE = "JOIN devices d ON d.inbox = k.inbox WHERE d.user_id = $1 AND d.device_id = $2"
COUNTS = f"""
SELECT k.algorithm, k.amount - k.taken FROM one_time_keys k {_OF_DEVICE} AND k.taken < k.amount
"""
UNUSED_FALLBACKS = f"""
SELECT k.algorithm FROM fallback_keys k {_OF_DEVICE} AND k.is_used = 0 ORDER BY k.algorithm
"""


def stored_size(keys: Sequence[bytes]) -> int:
    """Return the bytes that keys of one algorithm take when they are stored."""
    return len(keys) * max(map(len, keys), default=0)


async def put(tx: Tx, inbox: int, keys: Mapping[str, Sequence[bytes]]) -> None:
    """Replace the unclaimed keys of some algorithms, oldest first.

    Each key is a JSON object `{"algorithm:key_id": …}`.

    Raises: ForeignViolation, by the end of the unit, if the device does not exist.
    """
    rows = []
    for algorithm, algorithm_keys in keys.items():
        width = max(map(len, algorithm_keys))
        padded = b"".join([key.ljust(width) for key in algorithm_keys])
        rows.append((inbox, algorithm, len(algorithm_keys), width, padded))
    await tx.insert_rows(PUT, rows)


async def delete_spent(tx: Tx, inbox: int) -> None:
    """Delete the rows of a device whose keys are all claimed."""
    await tx.execute(DELETE_SPENT, inbox)


async def counts(tx: Tx, user_id: str, device_id: str) -> dict[str, int]:
    """Count the unclaimed keys of a device by algorithm."""
    return {row[0]: row[1] for row in await tx.fetch(COUNTS, user_id, device_id)}


async def claim_deferred(tx: Tx, inboxes: Collection[int], algorithm: str) -> DeferredRows:
    """Claim the oldest key of each device that has one (deferred); read with `read_claimed`."""
    return await tx.change_returning(CLAIM, list(inboxes), algorithm)


async def claim_keys(tx: Tx, algorithms: Mapping[int, str]) -> list[tuple[int, bytes]]:
    """Claim the oldest key of each inbox that has one for its algorithm.

    Returns: (inbox, key) as in `read_claimed`.
    """
    return read_claimed(await tx.fetch(CLAIM_ANY, list(algorithms), list(algorithms.values())))


def read_claimed(rows: Sequence[Row]) -> list[tuple[int, bytes]]:
    """Read the rows of a claim: (inbox, key as it was stored)."""
    return [(row[0], bytes(row[1]).rstrip()) for row in rows]


async def put_fallbacks(tx: Tx, inbox: int, keys: Sequence[tuple[str, str, bytes]]) -> None:
    """Set unused fallback keys (algorithm, key_id, content), at most one per algorithm."""
    await tx.insert_rows(PUT_FALLBACKS, [(inbox, *key) for key in keys])


async def claim_fallbacks(tx: Tx, algorithms: Mapping[int, str]) -> list[tuple[int, bytes]]:
    """Claim the fallback key of each inbox that has one, and mark it as used.

    Returns: (inbox, key) as in `read_claimed`.
    """
    rows = await tx.fetch(USE_FALLBACKS, list(algorithms), list(algorithms.values()))
    return [(row[0], encode_named_key(row[1], row[2], bytes(row[3]))) for row in rows]


def encode_named_key(algorithm: str, key_id: str, content: bytes) -> bytes:
    """Encode the JSON object `{"algorithm:key_id": content}`; `content` is JSON."""
    return b"{%b:%b}" % (orjson.dumps(f"{algorithm}:{key_id}"), content)


async def delete(tx: Tx, user_id: str, device_ids: Sequence[str]) -> None:
    """Delete the keys of devices that are about to be deleted.

    The foreign key would delete them too. Deleting them first takes the locks in the same order
    (keys, then device) as a concurrent upload, so the two cannot deadlock.
    """
    await tx.execute(DELETE, user_id, list(device_ids))
    await tx.execute(DELETE_FALLBACKS, user_id, list(device_ids))


async def unused_fallback_algorithms(tx: Tx, user_id: str, device_id: str) -> list[str]:
    """List the algorithms of a device's fallback keys that were never claimed."""
    return [row[0] for row in await tx.fetch(UNUSED_FALLBACKS, user_id, device_id)]
