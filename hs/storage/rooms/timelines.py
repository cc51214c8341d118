"""Reads of rooms' histories: by position, by arrival, by time, and state at many snapshots."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.rooms import events, state
from hs.storage.rooms.state import Key

_FIELDS = "event_id, depth, stream_id, writer, type, sender, contains_url"
_PLACE = f"SELECT {_FIELDS} FROM events"
# Comparisons of rows are a range of the index, on both engines; with OR, PostgreSQL would walk the
# room from its end.
_BETWEEN = (
    "room_id = $1 AND status = 0 "
    "AND (depth, stream_id) > ($2, $3) AND (depth, stream_id) <= ($4, $5)"
)
NEWEST = f"{_PLACE} WHERE {_BETWEEN} ORDER BY depth DESC, stream_id DESC LIMIT $6"
OLDEST = f"{_PLACE} WHERE {_BETWEEN} ORDER BY depth, stream_id LIMIT $6"
# The owner of a room numbers its events in the order of their arrival.
LAST_ARRIVED = f"""
{_PLACE} WHERE room_id = $1 AND status = 0 AND stream_id <= $2
ORDER BY stream_id DESC LIMIT $3
"""
ARRIVED_AFTER = f"""
{_PLACE} WHERE room_id = $1 AND status = 0 AND stream_id > $2 AND stream_id <= $3
ORDER BY stream_id LIMIT $4
"""
_TIMED = "SELECT event_id, origin_server_ts, stream_id FROM events"
AFTER_TIME = f"""
{_TIMED} WHERE room_id = $1 AND status = 0 AND (origin_server_ts, stream_id) > ($2, $3)
ORDER BY origin_server_ts, stream_id LIMIT $4
"""
BEFORE_TIME = f"""
{_TIMED} WHERE room_id = $1 AND status = 0 AND (origin_server_ts, stream_id) < ($2, $3)
ORDER BY origin_server_ts DESC, stream_id DESC LIMIT $4
"""


class TimelineEvent(NamedTuple):
    """An event with its position and the fields that filters look at.

    (depth, stream_id) is its position in the room's history, stream_id alone that of its arrival.
    """

    event_id: str
    depth: int
    stream_id: int
    writer: str
    type: str
    sender: str
    contains_url: int


class TimedEvent(NamedTuple):
    """An event's timestamp and position."""

    event_id: str
    origin_server_ts: int
    stream_id: int


HistoryPosition = tuple[int, int]
"""(depth, stream_id), ordered as the room's history."""


async def newest(
    tx: Tx, room_id: str, after: HistoryPosition, upto: HistoryPosition, limit: int
) -> list[TimelineEvent]:
    """List events in `(after, upto]` of a room's history, newest first."""
    rows = await tx.fetch(NEWEST, room_id, *after, *upto, limit)
    return [TimelineEvent(*row) for row in rows]


async def oldest(
    tx: Tx, room_id: str, after: HistoryPosition, upto: HistoryPosition, limit: int
) -> list[TimelineEvent]:
    """List events in `(after, upto]` of a room's history, oldest first."""
    rows = await tx.fetch(OLDEST, room_id, *after, *upto, limit)
    return [TimelineEvent(*row) for row in rows]


async def last_arrived(tx: Tx, room_id: str, upto: int, limit: int) -> list[TimelineEvent]:
    """List the last events that arrived in a room up to a stream ID, latest first."""
    return [TimelineEvent(*row) for row in await tx.fetch(LAST_ARRIVED, room_id, upto, limit)]


async def arrived_between(
    tx: Tx, room_id: str, after: int, upto: int, limit: int
) -> list[TimelineEvent]:
    """List events that arrived in a room in `(after, upto]`, earliest first."""
    return [
        TimelineEvent(*row) for row in await tx.fetch(ARRIVED_AFTER, room_id, after, upto, limit)
    ]


TimePosition = tuple[int, int]
"""(origin_server_ts, stream_id), ordered by time."""


async def after_time(tx: Tx, room_id: str, position: TimePosition, limit: int) -> list[TimedEvent]:
    """List the events of a room after a position in time, earliest first."""
    return [TimedEvent(*row) for row in await tx.fetch(AFTER_TIME, room_id, *position, limit)]


async def before_time(tx: Tx, room_id: str, position: TimePosition, limit: int) -> list[TimedEvent]:
    """List the events of a room before a position in time, latest first."""
    return [TimedEvent(*row) for row in await tx.fetch(BEFORE_TIME, room_id, *position, limit)]


async def entries_at(
    tx: Tx, snapshot_ids: Collection[int], keys: Sequence[Key]
) -> dict[int, dict[Key, str]]:
    """Return some entries of many snapshots, {snapshot: {key: event ID}}.

    Snapshots in one chain of parents are resolved by a single read of that chain, because the
    greatest ID is read first and a parent's ID is smaller than its child's.
    """
    requested = {number: key for key, number in (await state.key_ids(tx, keys)).items()}
    remaining = set(snapshot_ids)
    numbers: dict[int, dict[int, int]] = {}
    while remaining:
        accumulated: dict[int, int] = {}
        top = max(remaining)
        remaining.discard(top)
        for snapshot_id, delta in await state.load_chain(tx, top):
            accumulated.update(pair for pair in state.unpack(delta) if pair[0] in requested)
            if snapshot_id in remaining or snapshot_id == top:
                remaining.discard(snapshot_id)
                numbers[snapshot_id] = dict(accumulated)
    used = {stream_id for entries in numbers.values() for stream_id in entries.values()}
    names = await events.event_ids_of(tx, sorted(used - {state.REMOVED})) if used else {}
    return {
        snapshot_id: {
            requested[key]: names[stream_id]
            for key, stream_id in numbers.get(snapshot_id, {}).items()
            if stream_id in names
        }
        for snapshot_id in snapshot_ids
    }


async def single_entries(
    tx: Tx, queries: Sequence[tuple[int, str, str]]
) -> list[tuple[int, Key, str]]:
    """Look up one entry in each of many snapshots: (snapshot, type, state_key).

    Returns: (snapshot, key, event ID) for the entries that exist.
    """
    keys = sorted({(event_type, state_key) for _, event_type, state_key in queries})
    entries = await entries_at(tx, {snapshot_id for snapshot_id, _, _ in queries}, keys)
    entries_found = []
    for snapshot_id, event_type, state_key in queries:
        event_id = entries[snapshot_id].get((event_type, state_key))
        if event_id is not None:
            entries_found.append((snapshot_id, (event_type, state_key), event_id))
    return entries_found
