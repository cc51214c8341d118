"""Reading rooms' history: by place, by time, and the state at many points of it."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.rooms import events, state
from hs.storage.rooms.state import Key

_FIELDS = "event_id, depth, stream_id, writer, type, sender, contains_url"
_PLACE = f"SELECT {_FIELDS} FROM events"
_BETWEEN = (
    "room_id = $1 AND status = 0 "
    "AND (depth > $2 OR (depth = $2 AND stream_id > $3)) "
    "AND (depth < $4 OR (depth = $4 AND stream_id <= $5))"
)
NEWEST = f"{_PLACE} WHERE {_BETWEEN} ORDER BY depth DESC, stream_id DESC LIMIT $6"
OLDEST = f"{_PLACE} WHERE {_BETWEEN} ORDER BY depth, stream_id LIMIT $6"
# A room's events are numbered by its owner in the order of their arrival.
LAST_ARRIVED = f"""
{_PLACE} WHERE room_id = $1 AND status = 0 AND stream_id <= $2
ORDER BY stream_id DESC LIMIT $3
"""
ARRIVED_AFTER = f"""
{_PLACE} WHERE room_id = $1 AND status = 0 AND stream_id > $2 AND stream_id <= $3
ORDER BY stream_id LIMIT $4
"""
FIRST_AND_LAST = """
SELECT min(stream_id), max(stream_id) FROM events WHERE room_id = $1 AND status = 0
"""
NEXT_TIME = """
SELECT stream_id, origin_server_ts FROM events
WHERE room_id = $1 AND status = 0 AND stream_id >= $2 ORDER BY stream_id LIMIT 1
"""
TIMES_FROM = """
SELECT event_id, origin_server_ts, depth, stream_id FROM events
WHERE room_id = $1 AND status = 0 AND stream_id >= $2 ORDER BY stream_id LIMIT $3
"""
TIMES_BELOW = """
SELECT event_id, origin_server_ts, depth, stream_id FROM events
WHERE room_id = $1 AND status = 0 AND stream_id < $2 ORDER BY stream_id DESC LIMIT $3
"""


class Placed(NamedTuple):
    """An event's place in its room, and what filters ask of it.

    Its depth and number are its place in history, its number alone that in arrival.
    """

    event_id: str
    depth: int
    stream_id: int
    writer: str
    type: str
    sender: str
    contains_url: int


class Timed(NamedTuple):
    """An event's time and place."""

    event_id: str
    origin_server_ts: int
    depth: int
    stream_id: int


Place = tuple[int, int]
"""Depth and number, in the order of history."""


async def newest(tx: Tx, room_id: str, after: Place, upto: Place, limit: int) -> list[Placed]:
    """List events in `(after, upto]` of a room's history, the newest first."""
    rows = await tx.fetch(NEWEST, room_id, *after, *upto, limit)
    return [Placed(*row) for row in rows]


async def oldest(tx: Tx, room_id: str, after: Place, upto: Place, limit: int) -> list[Placed]:
    """List events in `(after, upto]` of a room's history, the oldest first."""
    rows = await tx.fetch(OLDEST, room_id, *after, *upto, limit)
    return [Placed(*row) for row in rows]


async def last_arrived(tx: Tx, room_id: str, upto: int, limit: int) -> list[Placed]:
    """List the last events that arrived in a room up to a number, the latest first."""
    return [Placed(*row) for row in await tx.fetch(LAST_ARRIVED, room_id, upto, limit)]


async def arrived_between(tx: Tx, room_id: str, after: int, upto: int, limit: int) -> list[Placed]:
    """List what arrived in a room in `(after, upto]`, the earliest first."""
    return [Placed(*row) for row in await tx.fetch(ARRIVED_AFTER, room_id, after, upto, limit)]


async def around_time(tx: Tx, room_id: str, origin_server_ts: int, window: int) -> list[Timed]:
    """List events that arrived about when those of a time did, in no order.

    Arrival follows time but for what other servers sent late or dated wrongly, so the window
    is searched for by halving and holds `window` events to each side.
    """
    row = await tx.fetchrow(FIRST_AND_LAST, room_id)
    if row is None or row[0] is None:
        return []
    low, high = row[0], row[1] + 1
    while low < high:
        middle = (low + high) // 2
        found = await tx.fetchrow(NEXT_TIME, room_id, middle)
        if found is None or found[1] >= origin_server_ts:
            high = middle
        else:
            low = found[0] + 1
    rows = [
        *await tx.fetch(TIMES_FROM, room_id, low, window),
        *await tx.fetch(TIMES_BELOW, room_id, low, window),
    ]
    return [Timed(*row) for row in rows]


async def entries_at(
    tx: Tx, snapshot_ids: Collection[int], keys: Sequence[Key]
) -> dict[int, dict[Key, str]]:
    """Give some entries of many snapshots; those of one chain cost one reading of the chain."""
    wanted = {number: key for key, number in (await state.key_ids(tx, keys)).items()}
    remaining = set(snapshot_ids)
    numbers: dict[int, dict[int, int]] = {}
    while remaining:
        held: dict[int, int] = {}
        top = max(remaining)
        remaining.discard(top)
        for snapshot_id, delta in await state.chain(tx, top):
            held.update(pair for pair in state.unpack(delta) if pair[0] in wanted)
            if snapshot_id in remaining or snapshot_id == top:
                remaining.discard(snapshot_id)
                numbers[snapshot_id] = dict(held)
    used = {number for entries in numbers.values() for number in entries.values()}
    names = await events.ids_of(tx, sorted(used - {state.REMOVED})) if used else {}
    return {
        snapshot_id: {
            wanted[key]: names[number]
            for key, number in numbers.get(snapshot_id, {}).items()
            if number in names
        }
        for snapshot_id in snapshot_ids
    }


async def single_entries(
    tx: Tx, places: Sequence[tuple[int, str, str]]
) -> list[tuple[int, Key, str]]:
    """Look one entry up in each of many snapshots: (snapshot, type, state_key) each."""
    keys = sorted({(event_type, state_key) for _, event_type, state_key in places})
    entries = await entries_at(tx, {snapshot_id for snapshot_id, _, _ in places}, keys)
    found = []
    for snapshot_id, event_type, state_key in places:
        event_id = entries[snapshot_id].get((event_type, state_key))
        if event_id is not None:
            found.append((snapshot_id, (event_type, state_key), event_id))
    return found
