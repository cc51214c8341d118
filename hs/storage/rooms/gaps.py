"""Gaps in rooms' histories: events that stored events cite, and that this server lacks."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import UpdateRows

BETWEEN = """
SELECT event_id, depth, failures FROM backward_extremities
WHERE room_id = $1 AND depth >= $2 AND depth <= $3 AND retry_ms <= $4
ORDER BY depth DESC, event_id LIMIT $5
"""
ANY_BETWEEN = """
SELECT 1 FROM backward_extremities WHERE room_id = $1 AND depth >= $2 AND depth <= $3 LIMIT 1
"""
SET_RETRY = UpdateRows(
    "backward_extremities", key="event_id text", values="failures bigint, retry_ms bigint"
)
STORED = sql(
    lambda d: (
        "SELECT event_id, CASE WHEN snapshot_id IS NULL THEN 0 ELSE 1 END FROM events "
        f"WHERE {d.any_of('event_id', 1, 'text')}"
    )
)


class Gap(NamedTuple):
    """A missing event, the depth of the deepest event that cites it, and failures to get it."""

    event_id: str
    depth: int
    failures: int


async def list_between(
    tx: Tx, room_id: str, depths: tuple[int, int], now_ms: int, limit: int
) -> list[Gap]:
    """List the gaps below events between two depths that may be asked for now, deepest first."""
    rows = await tx.fetch(BETWEEN, room_id, *depths, now_ms, limit)
    return [Gap(*row) for row in rows]


async def has_gap(tx: Tx, room_id: str, depths: tuple[int, int]) -> bool:
    """Return whether there is a gap below an event between two depths."""
    return await tx.fetchval(ANY_BETWEEN, room_id, *depths) is not None


async def set_retry(tx: Tx, rows: Sequence[tuple[str, int, int]]) -> None:
    """Set when events may be asked for again: (event_id, failures, retry_ms)."""
    await tx.update_rows(SET_RETRY, rows)


async def stored_events(tx: Tx, event_ids: Sequence[str]) -> dict[str, bool]:
    """Return, for those of the events that are stored, whether the state before them is known."""
    return {row[0]: bool(row[1]) for row in await tx.fetch(STORED, list(event_ids))}
