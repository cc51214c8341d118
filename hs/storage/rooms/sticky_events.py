"""The events that are still sticky (MSC4354), and some that were until lately."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

_COLUMNS = "s.event_id, s.room_id, s.stream_id, s.writer, s.expires_ms"
INSERT = InsertRows(
    "sticky_events",
    "event_id text, room_id text, stream_id bigint, writer text, expires_ms bigint, "
    "soft_failed smallint",
    # An event is stored again when a later check accepts it: it is new to everybody then.
    conflict=(
        "ON CONFLICT (event_id) DO UPDATE SET stream_id = excluded.stream_id, "
        "writer = excluded.writer, soft_failed = excluded.soft_failed"
    ),
)
DELETE = sql(lambda d: f"DELETE FROM sticky_events WHERE {d.any_of('event_id', 1, 'text')}")
PRUNE = "DELETE FROM sticky_events WHERE expires_ms <= $1"
UNEXPIRED = f"""
SELECT {_COLUMNS} FROM sticky_events s WHERE s.expires_ms > $1 AND s.soft_failed = 0 LIMIT $2
"""
UNEXPIRED_ROOMS = """
SELECT s.room_id, MAX(s.expires_ms), MAX(s.stream_id) FROM sticky_events s
WHERE s.expires_ms > $1 AND s.soft_failed = 0 GROUP BY s.room_id LIMIT $2
"""
_UNEXPIRED = "s.stream_id <= $5 AND s.expires_ms > $6 AND s.soft_failed = 0"
IN_ROOMS = sql(
    lambda d: (
        f"SELECT {_COLUMNS} FROM {d.unnest('w', 'room_id text', 1)} CROSS JOIN sticky_events s "
        f"WHERE s.room_id = w.room_id AND s.stream_id > $2 AND {_UNEXPIRED} "
        f"UNION ALL SELECT {_COLUMNS} FROM {d.unnest('n', 'room_id text', 3)} "
        f"CROSS JOIN sticky_events s "
        f"WHERE s.room_id = n.room_id AND s.stream_id > $4 AND {_UNEXPIRED} "
        "ORDER BY stream_id LIMIT $7"
    )
)


class StickyRecord(NamedTuple):
    """A sticky event; `stream_id` is the position of its row in the stream of events."""

    event_id: str
    room_id: str
    stream_id: int
    writer: str
    expires_ms: int


async def insert(tx: Tx, records: Sequence[tuple[StickyRecord, bool]]) -> None:
    """Store sticky events, each with whether it is soft-failed."""
    await tx.insert_rows(INSERT, [(*record, int(failed)) for record, failed in records])


async def remove(tx: Tx, event_ids: Sequence[str]) -> None:
    """Remove events, which were redacted or purged."""
    await tx.execute(DELETE, list(event_ids))


async def prune(tx: Tx, now_ms: int) -> int:
    """Remove the events that are not sticky any more; return their number."""
    return await tx.execute(PRUNE, now_ms)


async def list_unexpired(tx: Tx, now_ms: int, limit: int) -> list[StickyRecord]:
    """List the events of all rooms that are still sticky, in any order."""
    return [StickyRecord(*row) for row in await tx.fetch(UNEXPIRED, now_ms, limit)]


async def list_rooms(tx: Tx, now_ms: int, limit: int) -> list[tuple[str, int, int]]:
    """List rooms with events that are still sticky, with the last expiry and position."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(UNEXPIRED_ROOMS, now_ms, limit)]


class StickyRange(NamedTuple):
    """The sticky events of `rooms` after a stream ID, and of `new_rooms` after another one."""

    rooms: Sequence[str]
    after: int
    new_rooms: Sequence[str]
    new_after: int
    upto: int


async def list_in_rooms(tx: Tx, where: StickyRange, now_ms: int, limit: int) -> list[StickyRecord]:
    """List the events of rooms that are still sticky, the earliest first."""
    rooms, after, new_rooms, new_after, upto = where
    rows = await tx.fetch(
        IN_ROOMS, list(rooms), after, list(new_rooms), new_after, upto, now_ms, limit
    )
    return [StickyRecord(*row) for row in rows]
