"""Receipts: moving them forward, and reading those of rooms."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

UNTHREADED = ""

# A receipt for an event that is not stored yet counts as the latest.
MOVE = """
INSERT INTO receipts
    (room_id, receipt_type, user_id, thread_id, event_id, event_stream_id, ts, stream_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (room_id, receipt_type, user_id, thread_id) DO UPDATE SET
    event_id = excluded.event_id, event_stream_id = excluded.event_stream_id,
    ts = excluded.ts, stream_id = excluded.stream_id
WHERE receipts.event_stream_id IS NULL OR excluded.event_stream_id IS NULL
   OR excluded.event_stream_id > receipts.event_stream_id
"""
IS_AT_OR_AFTER = """
SELECT 1 FROM receipts
WHERE room_id = $1 AND receipt_type = $2 AND user_id = $3 AND thread_id = $4
  AND event_stream_id >= $5
"""
OF_ROOMS = sql(
    lambda d: (
        "SELECT room_id, receipt_type, user_id, thread_id, event_id, event_stream_id, ts, "
        f"stream_id FROM receipts WHERE {d.any_of('room_id', 1, 'text')} ORDER BY stream_id"
    )
)
EVENT_POSITIONS = sql(
    lambda d: (
        "SELECT event_id, room_id, stream_id FROM events "
        f"WHERE status <> 3 AND {d.any_of('event_id', 1, 'text')}"
    )
)
THREADS = sql(lambda d: f"SELECT root_id FROM threads WHERE {d.any_of('root_id', 1, 'text')}")
EVENT_POSITION = "SELECT room_id, stream_id FROM events WHERE event_id = $1 AND status <> 3"
IS_THREAD = "SELECT 1 FROM threads WHERE root_id = $1"
PARENT = "SELECT parent_id, rel_type FROM relations WHERE event_id = $1"


class ReceiptRecord(NamedTuple):
    """A row of `receipts`."""

    room_id: str
    receipt_type: str
    user_id: str
    thread_id: str
    event_id: str
    event_stream_id: int | None
    ts: int
    stream_id: int


async def is_at_or_after(tx: Tx, record: ReceiptRecord) -> bool:
    """Return whether the receipt is already at this event or at a later one."""
    row = await tx.fetchval(IS_AT_OR_AFTER, *record[:4], record.event_stream_id)
    return row is not None


async def move_receipt(tx: Tx, record: ReceiptRecord) -> bool:
    """Move a receipt forward; return False if it is already there or further on."""
    return await tx.execute(MOVE, *record) > 0


async def list_of_rooms(tx: Tx, room_ids: Sequence[str]) -> list[ReceiptRecord]:
    """List the receipts of rooms, ordered by when they moved."""
    return [ReceiptRecord(*row) for row in await tx.fetch(OF_ROOMS, list(room_ids))]


async def event_position(tx: Tx, event_id: str) -> tuple[str, int] | None:
    """Return the room and the stream ID of an event."""
    row = await tx.fetchrow(EVENT_POSITION, event_id)
    return None if row is None else (row[0], row[1])


async def event_positions(tx: Tx, event_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return the room and the stream ID of each of the events that are stored."""
    if not event_ids:
        return {}
    rows = await tx.fetch(EVENT_POSITIONS, list(event_ids))
    return {row[0]: (row[1], row[2]) for row in rows}


async def threads_among(tx: Tx, root_ids: Sequence[str]) -> set[str]:
    """Return those of the events that are the roots of threads."""
    return {row[0] for row in await tx.fetch(THREADS, list(root_ids))} if root_ids else set()


async def is_thread(tx: Tx, root_id: str) -> bool:
    """Return whether an event is the root of a thread."""
    return await tx.fetchval(IS_THREAD, root_id) is not None


async def list_ancestors(tx: Tx, event_id: str, hops: int) -> list[tuple[str, str]]:
    """Follow an event's relations up to `hops` parents; return (parent, rel_type) of each step."""
    steps: list[tuple[str, str]] = []
    child_id = event_id
    for _ in range(hops):
        row = await tx.fetchrow(PARENT, child_id)
        if row is None:
            break
        child_id = row[0]
        steps.append((row[0], row[1]))
    return steps
