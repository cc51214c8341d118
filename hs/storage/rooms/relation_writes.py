"""Writes of relations, and of the thread rows that are derived from them."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

THREAD = "m.thread"

INSERT = InsertRows(
    "relations",
    "event_id text, room_id text, parent_id text, rel_type text, aggregation_key text, "
    "type text, sender text, depth bigint, stream_id bigint",
    conflict="ON CONFLICT (event_id) DO NOTHING",
)
ADD_REPLIES = InsertRows(
    "threads",
    "root_id text, room_id text, latest_event_id text, latest_stream_id bigint, replies bigint",
    conflict=(
        # Backfilled replies are older than those that are stored.
        "ON CONFLICT (root_id) DO UPDATE SET latest_event_id = CASE "
        "WHEN excluded.latest_stream_id > threads.latest_stream_id THEN excluded.latest_event_id "
        "ELSE threads.latest_event_id END, "
        "latest_stream_id = CASE "
        "WHEN excluded.latest_stream_id > threads.latest_stream_id THEN excluded.latest_stream_id "
        "ELSE threads.latest_stream_id END, "
        "replies = threads.replies + excluded.replies"
    ),
)
DELETE_CHILDREN = sql(
    lambda d: (
        f"DELETE FROM relations WHERE {d.any_of('event_id', 1, 'text')} "
        "RETURNING parent_id, rel_type"
    )
)
LATEST_REPLY = """
SELECT event_id, stream_id FROM relations
WHERE parent_id = $1 AND rel_type = 'm.thread' ORDER BY stream_id DESC LIMIT 1
"""
DECREMENT_REPLIES = """
UPDATE threads SET replies = replies - 1, latest_event_id = $2, latest_stream_id = $3
WHERE root_id = $1
"""
DELETE_THREAD = "DELETE FROM threads WHERE root_id = $1"


class RelationRecord(NamedTuple):
    """A row of `relations`: a child event and its relation."""

    event_id: str
    room_id: str
    parent_id: str
    rel_type: str
    aggregation_key: str | None
    type: str
    sender: str
    depth: int
    stream_id: int


async def insert(tx: Tx, records: Sequence[RelationRecord]) -> None:
    """Store the relations of new events and count replies in threads.

    `records` are in stream order, so that the last reply of each thread comes last.
    """
    await tx.insert_rows(INSERT, records)
    latest: dict[str, RelationRecord] = {}
    replies: dict[str, int] = {}
    for record in records:
        if record.rel_type == THREAD:
            replies[record.parent_id] = replies.get(record.parent_id, 0) + 1
            latest[record.parent_id] = record
    if replies:
        rows = [
            (root, last.room_id, last.event_id, last.stream_id, replies[root])
            for root, last in sorted(latest.items())
        ]
        await tx.insert_rows(ADD_REPLIES, rows)


async def remove(tx: Tx, event_ids: Sequence[str]) -> None:
    """Remove redacted events from relations and threads; delete threads without replies."""
    for parent_id, rel_type in await tx.fetch(DELETE_CHILDREN, list(event_ids)):
        if rel_type != THREAD:
            continue
        row = await tx.fetchrow(LATEST_REPLY, parent_id)
        if row is None:
            await tx.execute(DELETE_THREAD, parent_id)
        else:
            await tx.execute(DECREMENT_REPLIES, parent_id, row[0], row[1])
