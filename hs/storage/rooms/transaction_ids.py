"""Transaction IDs: the event that a device's request created, so that a retry returns the same.

The scope of a request is stored as a digest, as it is long and only compared. Rows of earlier
releases have the scope itself.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

INSERT = InsertRows(
    "transaction_ids",
    "user_id text, device_id text, scope text, txn_id text, stream_id bigint, created_ms bigint",
    conflict="ON CONFLICT (user_id, device_id, scope, txn_id) DO NOTHING",
)
RECENT = """
SELECT t.scope, t.txn_id, e.event_id, t.stream_id, e.room_id
FROM transaction_ids t JOIN events e ON e.stream_id = t.stream_id
WHERE t.user_id = $1 AND t.device_id = $2
ORDER BY t.created_ms DESC LIMIT $3
"""
OLDER = """
SELECT scope, txn_id FROM transaction_ids WHERE user_id = $1 AND device_id = $2
ORDER BY created_ms DESC LIMIT $4 OFFSET $3
"""
FIND = """
SELECT t.scope, t.txn_id, e.event_id, t.stream_id, e.room_id
FROM transaction_ids t JOIN events e ON e.stream_id = t.stream_id
WHERE t.user_id = $1 AND t.device_id = $2 AND t.scope IN ($3, $5) AND t.txn_id = $4
"""
OF_EVENTS = sql(
    lambda d: (
        "SELECT e.event_id, t.device_id, t.txn_id FROM events e "
        "JOIN transaction_ids t ON t.stream_id = e.stream_id "
        f"WHERE t.user_id = $1 AND {d.any_of('e.event_id', 2, 'text')}"
    )
)
PRUNE = "DELETE FROM transaction_ids WHERE created_ms < $1"

_DIGEST_BYTES: Final = 16
_IS_DIGEST: Final = "#"
_CACHED_SCOPES: Final = 1024


# Each request needs it several times, and all messages of a room have the same scope.
@lru_cache(maxsize=_CACHED_SCOPES)
def stored_scope(scope: str) -> str:
    """Return a scope, or a stored scope, as it is stored."""
    if scope.startswith(_IS_DIGEST):
        return scope
    digest = hashlib.blake2b(scope.encode(), digest_size=_DIGEST_BYTES).digest()
    return _IS_DIGEST + base64.b64encode(digest).decode().rstrip("=")


async def insert(tx: Tx, rows: Sequence[tuple[str, str, str, str, int, int]]) -> None:
    """Store (user_id, device_id, scope, txn_id, stream_id, created_ms); known IDs are kept."""
    await tx.insert_rows(INSERT, [(*row[:2], stored_scope(row[2]), *row[3:]) for row in rows])


class TransactionRecord(NamedTuple):
    """A request with a transaction ID, and the event that it created; `scope` as it is stored."""

    scope: str
    txn_id: str
    event_id: str
    stream_id: int
    room_id: str


async def list_recent(tx: Tx, user_id: str, device_id: str, limit: int) -> list[TransactionRecord]:
    """List a device's latest requests, newest first."""
    rows = await tx.fetch(RECENT, user_id, device_id, limit)
    return [_record(row) for row in rows]


async def list_older(
    tx: Tx, user_id: str, device_id: str, skip: int, limit: int
) -> list[tuple[str, str]]:
    """List (stored scope, txn_id) of a device's requests after the latest ones, newest first."""
    rows = await tx.fetch(OLDER, user_id, device_id, skip, limit)
    return [(stored_scope(row[0]), row[1]) for row in rows]


async def find(
    tx: Tx, user_id: str, device_id: str, scope: str, txn_id: str
) -> TransactionRecord | None:
    """Return the event that a request has created, if it is known."""
    row = await tx.fetchrow(FIND, user_id, device_id, stored_scope(scope), txn_id, scope)
    return None if row is None else _record(row)


def _record(row: Row) -> TransactionRecord:
    return TransactionRecord(stored_scope(row[0]), row[1], row[2], row[3], row[4])


async def find_by_events(
    tx: Tx, user_id: str, event_ids: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Return (device_id, txn_id) of those events that the user sent with a transaction ID."""
    rows = await tx.fetch(OF_EVENTS, user_id, list(event_ids))
    return {row[0]: (row[1], row[2]) for row in rows}


async def prune(tx: Tx, before_ms: int) -> int:
    """Delete transaction IDs older than a time (ms); return their number."""
    return await tx.execute(PRUNE, before_ms)
