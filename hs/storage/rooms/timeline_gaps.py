"""Gaps in the timelines of rooms: events before which this server lacks some."""

from collections.abc import Sequence

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

INSERT = InsertRows(
    "timeline_gaps",
    "room_id text, stream_id bigint",
    conflict="ON CONFLICT (room_id, stream_id) DO NOTHING",
)
LATEST = sql(
    lambda d: (
        "SELECT room_id, max(stream_id) FROM timeline_gaps "
        f"WHERE {d.any_of('room_id', 1, 'text')} AND stream_id <= $2 GROUP BY room_id"
    )
)
AFTER = """
SELECT room_id, stream_id FROM timeline_gaps WHERE stream_id > $1 ORDER BY stream_id LIMIT $2
"""


async def add(tx: Tx, rows: Sequence[tuple[str, int]]) -> None:
    """Add gaps: (room_id, stream ID of the event after the gap)."""
    await tx.insert_rows(INSERT, rows)


async def latest(tx: Tx, room_ids: Sequence[str], upto: int) -> dict[str, int]:
    """Return the latest gap of each room up to a stream ID; most rooms have none."""
    return {row[0]: row[1] for row in await tx.fetch(LATEST, list(room_ids), upto)}


async def list_after(tx: Tx, after: int, limit: int) -> list[tuple[str, int]]:
    """List (room_id, stream ID) of the gaps after a stream ID, in order."""
    return [(row[0], row[1]) for row in await tx.fetch(AFTER, after, limit)]
