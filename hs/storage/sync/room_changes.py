"""Reading what happened in many rooms at once, for sync."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hs.core.positions import VectorPosition
from hs.storage.database import Tx
from hs.storage.dialect import sql

LOWEST = -(2**62)

# The number behind which the wanted rows begin is looked up first, so that a long room costs no
# more than a short one; CROSS JOIN has SQLite go from the rooms to their events.
WINDOWS = sql(
    lambda d: (
        "SELECT e.room_id, e.stream_id, e.writer, e.event_id, e.type, e.state_key, e.sender, "
        "e.depth, e.contains_url, e.snapshot_id "
        f"FROM {d.unnest('w', 'room_id text')} CROSS JOIN events e "
        "WHERE e.room_id = w.room_id AND e.stream_id > coalesce("
        "(SELECT i.stream_id FROM events i WHERE i.room_id = w.room_id "
        "AND i.stream_id > $2 AND i.stream_id <= $3 AND i.status = 0 "
        "ORDER BY i.stream_id DESC LIMIT 1 OFFSET $4), $2) "
        "AND e.stream_id <= $3 AND e.status = 0 ORDER BY e.stream_id"
    )
)
CHANGED_ROOMS = sql(
    lambda d: (
        "SELECT w.room_id FROM "
        f"{d.unnest('w', 'room_id text')} WHERE EXISTS ("
        "SELECT 1 FROM events e WHERE e.room_id = w.room_id AND e.stream_id > $2)"
    )
)
UPTO = """
SELECT event_id FROM events WHERE room_id = $1 AND stream_id <= $2 AND status = 0
ORDER BY stream_id DESC LIMIT 1
"""
BEHIND = """
SELECT event_id, writer, stream_id FROM events WHERE room_id = $1 AND stream_id > $2 AND status = 0
ORDER BY stream_id LIMIT $3
"""
BEHIND_AT_ONCE = 20


class WindowRow(NamedTuple):
    """One event of a room's timeline."""

    room_id: str
    stream_id: int
    writer: str
    event_id: str
    type: str
    state_key: str | None
    sender: str
    depth: int
    contains_url: int
    snapshot_id: int | None


Span = tuple[int, int]
"""Numbers of events, `(low, high]`."""


async def windows(
    tx: Tx, wanted: Mapping[Span, Sequence[str]], limit: int
) -> dict[str, list[WindowRow]]:
    """List the last events in spans of rooms, by span; a room in one span, earliest first."""
    found: dict[str, list[WindowRow]] = {}
    for (low, high), room_ids in wanted.items():
        for row in await tx.fetch(WINDOWS, list(room_ids), low, high, limit):
            found.setdefault(row[0], []).append(WindowRow(*row))
    return found


async def changed_rooms(tx: Tx, room_ids: Sequence[str], after: int) -> list[str]:
    """Give those of the rooms in which something arrived after a number."""
    return [row[0] for row in await tx.fetch(CHANGED_ROOMS, list(room_ids), after)]


async def around(tx: Tx, room_id: str, seen: VectorPosition) -> tuple[str | None, str | None]:
    """Give a room's last event that has been seen, and its first one that has not."""
    last: str | None = await tx.fetchval(UPTO, room_id, seen.floor)
    reached = seen.floor
    while rows := await tx.fetch(BEHIND, room_id, reached, BEHIND_AT_ONCE):
        for event_id, writer, number in rows:
            if not seen.covers(writer, number):
                return last, event_id
            last, reached = event_id, number
    return last, None
