"""Taking away what has been kept long enough: old messages, redacted contents, forgotten rooms."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import Rows, UpdateRows

ROOMS = "SELECT room_id FROM rooms WHERE room_id > $1 ORDER BY room_id LIMIT $2"
ROOMS_WITH_POLICY = """
SELECT room_id FROM current_state
WHERE type = 'm.room.retention' AND state_key = '' AND room_id > $1 ORDER BY room_id LIMIT $2
"""
EXTREMITIES = "SELECT extremities, stream_id FROM room_heads WHERE room_id = $1"
# A redaction stays as long as what it takes away.
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
DELETE_REDACTIONS = sql(
    lambda d: f"DELETE FROM redactions WHERE {d.any_of('redaction_id', 1, 'text')}"
)
DELETE_REQUESTS = sql(
    lambda d: f"DELETE FROM transaction_ids WHERE {d.any_of('event_id', 1, 'text')}"
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
NOTED = "SELECT room_id FROM forgotten_rooms"
NOTE = Rows(
    "forgotten_rooms",
    "room_id text, since_ms bigint",
    conflict="ON CONFLICT (room_id) DO NOTHING",
)
UNNOTE = sql(lambda d: f"DELETE FROM forgotten_rooms WHERE {d.any_of('room_id', 1, 'text')}")
LONG_FORGOTTEN = "SELECT room_id FROM forgotten_rooms WHERE since_ms <= $1 ORDER BY since_ms"
IS_REMEMBERED = "SELECT 1 FROM local_memberships WHERE room_id = $1 AND forgotten = 0 LIMIT 1"
MEMBERS = "SELECT user_id FROM local_memberships WHERE room_id = $1"
DELETE_ROOMS_REQUESTS = """
DELETE FROM transaction_ids WHERE event_id IN (SELECT event_id FROM events WHERE room_id = $1)
"""
DELETE_ROOMS_LINKS = """
DELETE FROM auth_chain_links
WHERE origin_chain IN (SELECT chain_id FROM auth_chains WHERE room_id = $1)
"""
_OF_ROOMS: Final = (
    "auth_chains",
    "search_entries",
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
    "thread_subscriptions",
    "notice_rooms",
    "forgotten_rooms",
    "local_memberships",
    "room_summaries",
    "current_state",
    "state_snapshots",
    "events",
    "room_heads",
    "rooms",
)
DELETE_ROOM: Final = [f"DELETE FROM {table} WHERE room_id = $1" for table in _OF_ROOMS]


class Redacted(NamedTuple):
    """A redaction in the log, and the event that it took away, if it is here."""

    stream_id: int
    origin_server_ts: int
    event_id: str | None
    pdu: bytes | None
    version: str | None


async def rooms(tx: Tx, after: str, limit: int) -> list[str]:
    """List rooms, in the order of their IDs."""
    return [row[0] for row in await tx.fetch(ROOMS, after, limit)]


async def rooms_with_policy(tx: Tx, after: str, limit: int) -> list[str]:
    """List rooms that say how long they keep messages."""
    return [row[0] for row in await tx.fetch(ROOMS_WITH_POLICY, after, limit)]


async def room_end(tx: Tx, room_id: str) -> tuple[str, int] | None:
    """Give a room's forward extremities (JSON) and the number of its last event."""
    row = await tx.fetchrow(EXTREMITIES, room_id)
    return None if row is None else (row[0], row[1])


async def old_messages(
    tx: Tx, room_id: str, before_ms: int, after: int, limit: int
) -> list[tuple[int, str]]:
    """List (stream_id, event_id) of a room's events that are no state, in order."""
    return [(row[0], row[1]) for row in await tx.fetch(OLD, room_id, before_ms, after, limit)]


async def delete_events(tx: Tx, numbered: Sequence[tuple[int, str]]) -> None:
    """Delete events, (stream_id, event_id) each, and what is kept of them elsewhere."""
    numbers = [number for number, _ in numbered]
    ids = [event_id for _, event_id in numbered]
    for statement in (DELETE_RELATIONS, DELETE_THREADS, DELETE_REDACTIONS, DELETE_REQUESTS):
        await tx.execute(statement, ids)
    await tx.execute(DELETE_ENTRIES, numbers)
    await tx.execute(DELETE_EVENTS, numbers)


async def redacted(tx: Tx, after: int, limit: int) -> list[Redacted]:
    """List redactions behind a number, in order."""
    return [Redacted(*row) for row in await tx.fetch(REDACTED, after, limit)]


async def progress(tx: Tx, name: str) -> int:
    """Tell how far something has come."""
    position: int | None = await tx.fetchval(PROGRESS, name)
    return position or 0


async def replace_pdus(tx: Tx, pdus: Sequence[tuple[str, bytes]], name: str, position: int) -> None:
    """Put other bytes in the place of events', (event_id, pdu) each, and note progress."""
    await tx.update_rows(SET_PDU, pdus)
    await tx.execute(SET_PROGRESS, name, position)


async def note_forgotten(tx: Tx, now_ms: int) -> None:
    """Note which rooms all local users have forgotten by now."""
    forgotten = {row[0] for row in await tx.fetch(FORGOTTEN)}
    noted = {row[0] for row in await tx.fetch(NOTED)}
    await tx.execute(UNNOTE, sorted(noted - forgotten))
    await tx.insert_rows(NOTE, [(room_id, now_ms) for room_id in sorted(forgotten - noted)])


async def long_forgotten(tx: Tx, before_ms: int) -> list[str]:
    """List rooms that were noted as forgotten by then."""
    return [row[0] for row in await tx.fetch(LONG_FORGOTTEN, before_ms)]


async def purge_forgotten(tx: Tx, room_id: str) -> list[str] | None:
    """Delete a room and list its members here; None if somebody remembers it again."""
    if await tx.fetchval(IS_REMEMBERED, room_id) is not None:
        await tx.execute(UNNOTE, [room_id])
        return None
    members = [row[0] for row in await tx.fetch(MEMBERS, room_id)]
    await tx.execute(DELETE_ROOMS_REQUESTS, room_id)
    await tx.execute(DELETE_ROOMS_LINKS, room_id)
    for statement in DELETE_ROOM:
        await tx.execute(statement, room_id)
    return members
