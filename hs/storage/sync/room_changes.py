"""Reads of what happened in many rooms at once, for sync."""

import operator
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import NamedTuple

from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.streams import StateChange
from hs.storage.database import Tx
from hs.storage.dialect import Statement, sql

LOWEST = 0  # backfilled events and outliers have negative stream IDs

# The stream ID after which the rows begin is looked up first, so that a long room costs no more
# than a short one. CROSS JOIN makes SQLite go from the rooms to their events.
_ROW = (
    "e.room_id, e.stream_id, e.writer, e.event_id, e.type, e.state_key, e.sender, "
    "e.depth, e.contains_url, e.snapshot_id"
)
_WINDOW = (
    "e.room_id = w.room_id AND e.stream_id > coalesce("
    "(SELECT i.stream_id FROM events i WHERE i.room_id = w.room_id "
    "AND i.stream_id > $2 AND i.stream_id <= $3 AND i.status = 0 "
    "ORDER BY i.stream_id DESC LIMIT 1 OFFSET $4), $2) "
    "AND e.stream_id <= $3 AND e.status = 0"
)
_HAS_CHILDREN = (
    "CASE WHEN EXISTS (SELECT 1 FROM relations c WHERE c.parent_id = e.event_id) THEN 1 ELSE 0 END"
)
WINDOWS = sql(
    lambda d: (
        f"SELECT {_ROW} FROM {d.unnest('w', 'room_id text')} CROSS JOIN events e WHERE {_WINDOW}"
    )
)
WINDOWS_OF_EVENTS = sql(
    lambda d: (
        f"SELECT {_ROW}, e.origin_server_ts, e.redacted_by, r.version, e.pdu, {_HAS_CHILDREN} "
        f"FROM {d.unnest('w', 'room_id text')} CROSS JOIN rooms r CROSS JOIN events e "
        f"WHERE r.room_id = w.room_id AND {_WINDOW}"
    )
)
CHANGED_ROOMS = sql(
    lambda d: (
        "SELECT w.room_id FROM "
        f"{d.unnest('w', 'room_id text')} WHERE EXISTS ("
        "SELECT 1 FROM events e WHERE e.room_id = w.room_id AND e.stream_id > $2)"
    )
)
LAST_UPTO = """
SELECT event_id FROM events WHERE room_id = $1 AND stream_id <= $2 AND status = 0
ORDER BY stream_id DESC LIMIT 1
"""
NEXT_AFTER = """
SELECT event_id, writer, stream_id FROM events WHERE room_id = $1 AND stream_id > $2 AND status = 0
ORDER BY stream_id LIMIT $3
"""
NEXT_AT_ONCE = 20


class TimelineRow(NamedTuple):
    """An event of a room's timeline; the last five fields only if the events themselves are read.

    `pdu` is as it is stored: `expand_pdu` returns the PDU. `has_children` tells whether any event
    relates to this one.
    """

    room_id: RoomID
    stream_id: int
    writer: str
    event_id: EventID
    type: str
    state_key: str | None
    sender: UserID
    depth: int
    contains_url: int
    snapshot_id: int | None
    origin_server_ts: int = 0
    redacted_by: EventID | None = None
    version: str = ""
    pdu: bytes = b""
    has_children: int = 0

    @property
    def changes(self) -> tuple[StateChange, ...]:
        """The entry of the state that the event sets; a row does not tell what else changed."""
        if self.state_key is None:
            return ()
        return ((self.type, self.state_key, self.event_id, None),)


_stream_id = operator.attrgetter("stream_id")

StreamRange = tuple[int, int]
"""A range of stream IDs, `(low, high]`."""


async def load_timelines(
    tx: Tx, rooms_by_span: Mapping[StreamRange, Sequence[str]], limit: int
) -> dict[str, list[TimelineRow]]:
    """Return the last events of rooms in ranges of the stream, earliest first, by room.

    A room must be in one range only; at most `limit` events of it are returned.
    """
    return await _load(tx, WINDOWS, rooms_by_span, limit)


async def load_timelines_of_events(
    tx: Tx, rooms_by_span: Mapping[StreamRange, Sequence[str]], limit: int
) -> dict[str, list[TimelineRow]]:
    """Return what `load_timelines` does, with the events themselves."""
    return await _load(tx, WINDOWS_OF_EVENTS, rooms_by_span, limit)


async def _load(
    tx: Tx, windows: Statement, rooms_by_span: Mapping[StreamRange, Sequence[str]], limit: int
) -> dict[str, list[TimelineRow]]:
    timelines: dict[str, list[TimelineRow]] = {}
    for (low, high), room_ids in rooms_by_span.items():
        rows = await tx.fetch(windows, list(room_ids), low, high, limit)
        for row in starmap(TimelineRow, rows):
            timelines.setdefault(row.room_id, []).append(row)
    # Here, as both engines return the rows of a room in order anyway, and would sort them all.
    for timeline in timelines.values():
        timeline.sort(key=_stream_id)
    return timelines


async def changed_rooms(tx: Tx, room_ids: Sequence[str], after: int) -> list[str]:
    """Return those of the rooms in which an event arrived after a stream ID."""
    return [row[0] for row in await tx.fetch(CHANGED_ROOMS, list(room_ids), after)]


async def around_position(
    tx: Tx, room_id: str, seen: VectorPosition
) -> tuple[str | None, str | None]:
    """Return the last event of a room that a position covers, and the first that it does not."""
    last: str | None = await tx.fetchval(LAST_UPTO, room_id, seen.floor)
    reached = seen.floor
    while rows := await tx.fetch(NEXT_AFTER, room_id, reached, NEXT_AT_ONCE):
        for event_id, writer, stream_id in rows:
            if not seen.covers(writer, stream_id):
                return last, event_id
            last, reached = event_id, stream_id
    return last, None
