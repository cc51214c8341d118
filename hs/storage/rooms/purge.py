"""Purging: old messages, the content of redacted events, and forgotten rooms.

Rules:

- Only message events are purged by age, never state events. The caller excludes forward
  extremities and events after the last one that it has seen, because new events refer to them. An
  event that is not an extremity now never becomes one again.
- A redaction is kept as long as the event that it redacts.
- `replace_pdus` stores its progress in the same transaction, so that an interrupted run continues
  where it stopped.
- A forgotten room is purged by its owner, while nobody else uses the room in memory. The
  transaction checks again that no local user remembers the room, so a user who joins again just
  before keeps it.
- Rows that are found through other rows are deleted first: transaction IDs through events, links
  through chains. The row of the room itself is last.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rooms.stored_pdus import compress_pdu, expand_pdu
from hs.storage.rows import InsertRows, UpdateRows

ROOMS = "SELECT room_id FROM rooms WHERE room_id > $1 ORDER BY room_id LIMIT $2"
ROOMS_WITH_POLICY = """
SELECT room_id FROM current_state
WHERE type = 'm.room.retention' AND state_key = '' AND room_id > $1 ORDER BY room_id LIMIT $2
"""
EXTREMITIES = "SELECT extremities, stream_id FROM room_heads WHERE room_id = $1"
# A redaction is kept as long as the event that it redacts.
OLD = """
SELECT e.stream_id, e.event_id FROM events e
WHERE e.room_id = $1 AND e.state_key IS NULL AND e.origin_server_ts < $2 AND e.stream_id > $3
AND (e.type <> 'm.room.redaction' OR NOT EXISTS (
    SELECT 1 FROM redactions r JOIN events target ON target.event_id = r.redacts
    WHERE r.redaction_id = e.event_id
))
ORDER BY e.stream_id LIMIT $4
"""
DELETE_EVENTS = sql(lambda d: f"DELETE FROM events WHERE {d.any_of('stream_id', 1, 'bigint')}")
DELETE_ENTRIES = sql(
    lambda d: f"DELETE FROM search_entries WHERE {d.any_of('stream_id', 1, 'bigint')}"
)
DELETE_RELATIONS = sql(lambda d: f"DELETE FROM relations WHERE {d.any_of('event_id', 1, 'text')}")
DELETE_THREADS = sql(lambda d: f"DELETE FROM threads WHERE {d.any_of('root_id', 1, 'text')}")
DELETE_STICKY = sql(lambda d: f"DELETE FROM sticky_events WHERE {d.any_of('event_id', 1, 'text')}")
DELETE_REDACTIONS = sql(
    lambda d: f"DELETE FROM redactions WHERE {d.any_of('redaction_id', 1, 'text')}"
)
DELETE_EVENT_TRANSACTION_IDS = sql(
    lambda d: f"DELETE FROM transaction_ids WHERE {d.any_of('stream_id', 1, 'bigint')}"
)

REDACTED: Final = """
SELECT n.stream_id, n.origin_server_ts, t.event_id, t.pdu, r.version
FROM events n
LEFT JOIN redactions d ON d.redaction_id = n.event_id
LEFT JOIN events t ON t.event_id = d.redacts AND t.redacted_by IS NOT NULL
LEFT JOIN rooms r ON r.room_id = t.room_id
WHERE n.type = 'm.room.redaction' AND n.stream_id > $1 ORDER BY n.stream_id LIMIT $2
"""
SET_PDU = UpdateRows("events", key="event_id text", values="pdu bytea")
PROGRESS = "SELECT position FROM keeping_progress WHERE name = $1"
SET_PROGRESS = """
INSERT INTO keeping_progress (name, position) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
"""

FORGOTTEN = """
SELECT room_id FROM local_memberships GROUP BY room_id HAVING min(forgotten) = 1
"""
RECORDED = "SELECT room_id FROM forgotten_rooms"
RECORD = InsertRows(
    "forgotten_rooms",
    "room_id text, since_ms bigint",
    conflict="ON CONFLICT (room_id) DO NOTHING",
)
DELETE_RECORD = sql(lambda d: f"DELETE FROM forgotten_rooms WHERE {d.any_of('room_id', 1, 'text')}")
LONG_FORGOTTEN = "SELECT room_id FROM forgotten_rooms WHERE since_ms <= $1 ORDER BY since_ms"
IS_REMEMBERED = "SELECT 1 FROM local_memberships WHERE room_id = $1 AND forgotten = 0 LIMIT 1"
MEMBERS = "SELECT user_id FROM local_memberships WHERE room_id = $1"
DELETE_TRANSACTION_IDS = """
DELETE FROM transaction_ids WHERE stream_id IN (SELECT stream_id FROM events WHERE room_id = $1)
"""
DELETE_ROOM_ENTRIES = """
DELETE FROM search_entries WHERE stream_id IN (SELECT stream_id FROM events WHERE room_id = $1)
"""
DELETE_CHAIN_LINKS = """
DELETE FROM auth_chain_links
WHERE origin_chain IN (SELECT chain_id FROM auth_chains WHERE room_id = $1)
"""
_ROOM_TABLES: Final = (
    "auth_chains",
    "relations",
    "threads",
    "redactions",
    "backward_extremities",
    "receipts",
    "push_outcomes",
    "push_exceptions",
    "push_marks",
    "room_aliases",
    "network_rooms",
    "delayed_events",
    "sticky_events",
    "timeline_gaps",
    "placed_outliers",
    "outside_removals",
    "inbound_pdus",
    "thread_subscriptions",
    "notice_rooms",
    "forgotten_rooms",
    "local_memberships",
    "room_servers",
    "room_summaries",
    "current_state",
    "state_snapshots",
    "events",
    "room_heads",
    "rooms",
)
DELETE_ROOM: Final = [
    DELETE_ROOM_ENTRIES,
    *(f"DELETE FROM {table} WHERE room_id = $1" for table in _ROOM_TABLES),
]


class RedactionRecord(NamedTuple):
    """A redaction event, and the event that it redacted, if that is stored."""

    stream_id: int
    origin_server_ts: int
    event_id: str | None
    pdu: bytes | None
    version: str | None


async def list_rooms(tx: Tx, after: str, limit: int) -> list[str]:
    """List room IDs after a given one, in order."""
    return [row[0] for row in await tx.fetch(ROOMS, after, limit)]


async def list_rooms_with_policy(tx: Tx, after: str, limit: int) -> list[str]:
    """List rooms with an m.room.retention event, after a given room ID, in order."""
    return [row[0] for row in await tx.fetch(ROOMS_WITH_POLICY, after, limit)]


async def forward_extremities(tx: Tx, room_id: str) -> tuple[str, int] | None:
    """Return a room's forward extremities (JSON) and the stream ID of its last event."""
    row = await tx.fetchrow(EXTREMITIES, room_id)
    return None if row is None else (row[0], row[1])


async def list_old_messages(
    tx: Tx, room_id: str, before_ms: int, after: int, limit: int
) -> list[tuple[int, str]]:
    """List (stream_id, event_id) of a room's message events before a time, in stream order."""
    return [(row[0], row[1]) for row in await tx.fetch(OLD, room_id, before_ms, after, limit)]


async def delete_events(tx: Tx, events: Sequence[tuple[int, str]]) -> None:
    """Delete events (stream_id, event_id) with their relations, threads and search entries."""
    stream_ids = [stream_id for stream_id, _ in events]
    event_ids = [event_id for _, event_id in events]
    for statement in (
        DELETE_RELATIONS,
        DELETE_THREADS,
        DELETE_REDACTIONS,
        DELETE_STICKY,
    ):
        await tx.execute(statement, event_ids)
    for statement in (DELETE_EVENT_TRANSACTION_IDS, DELETE_ENTRIES, DELETE_EVENTS):
        await tx.execute(statement, stream_ids)


async def list_redactions(tx: Tx, after: int, limit: int) -> list[RedactionRecord]:
    """List redactions after a stream ID, in order."""
    records = [RedactionRecord(*row) for row in await tx.fetch(REDACTED, after, limit)]
    return [
        record if record.pdu is None else record._replace(pdu=expand_pdu(bytes(record.pdu)))
        for record in records
    ]


async def load_progress(tx: Tx, name: str) -> int:
    """Return the position up to which a named job has run; 0 if it never ran."""
    position: int | None = await tx.fetchval(PROGRESS, name)
    return position or 0


async def replace_pdus(tx: Tx, pdus: Sequence[tuple[str, bytes]], name: str, position: int) -> None:
    """Replace the PDUs of events (event_id, pdu), and store the progress of the job."""
    await tx.update_rows(SET_PDU, [(event_id, compress_pdu(pdu)) for event_id, pdu in pdus])
    await tx.execute(SET_PROGRESS, name, position)


async def record_forgotten_rooms(tx: Tx, now_ms: int) -> None:
    """Record which rooms all their local users have forgotten, and since when."""
    forgotten = {row[0] for row in await tx.fetch(FORGOTTEN)}
    recorded = {row[0] for row in await tx.fetch(RECORDED)}
    await tx.execute(DELETE_RECORD, sorted(recorded - forgotten))
    await tx.insert_rows(RECORD, [(room_id, now_ms) for room_id in sorted(forgotten - recorded)])


async def rooms_forgotten_before(tx: Tx, before_ms: int) -> list[str]:
    """List rooms that were recorded as forgotten before a time (ms)."""
    return [row[0] for row in await tx.fetch(LONG_FORGOTTEN, before_ms)]


async def purge_forgotten_room(tx: Tx, room_id: str) -> list[str] | None:
    """Delete a room and everything that belongs to it.

    Returns: its local members; None if a local user remembers the room again.
    """
    if await tx.fetchval(IS_REMEMBERED, room_id) is not None:
        await tx.execute(DELETE_RECORD, [room_id])
        return None
    members = [row[0] for row in await tx.fetch(MEMBERS, room_id)]
    await tx.execute(DELETE_TRANSACTION_IDS, room_id)
    await tx.execute(DELETE_CHAIN_LINKS, room_id)
    for statement in DELETE_ROOM:
        await tx.execute(statement, room_id)
    return members
