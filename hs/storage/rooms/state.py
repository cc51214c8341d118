"""Room state: interned state keys, state snapshots as packed deltas, and the current state.

- Interning gives each (type, state_key) a number. Numbers are never reused or deleted. Two writers
  may intern the same key at once: the UNIQUE constraint decides, and the loser takes the number
  of the winner (after a rerun if the database reports a conflict). Missing keys are inserted in
  sorted order, so two writers cannot deadlock.
- A snapshot is its parent's state map with its delta applied; without a parent, the delta is the
  whole map. `hops` is the distance to the ancestor without parent. A snapshot never changes, and
  its ID is greater than that of its parent. Snapshot 0 is the empty state and has no row.
- A delta is a sequence of pairs of 64-bit big-endian integers: the number of the key, and
  the stream ID of the event, signed (events older than our stream have negative ones). Stream ID 0
  removes the key.
- The table current_state holds the resolved state of each room, one row per entry. It is written in
  the transaction that stores the events.
"""

import sys
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rooms import events
from hs.storage.rows import InsertRows

EMPTY_SNAPSHOT = 0
REMOVED = 0
_NUMBER_BYTES = 8
_PAIR_BYTES = 2 * _NUMBER_BYTES
_MAX_SEARCHED_KEYS = 32

_KEYS_STREAM = "state_keys"
_SNAPSHOTS_STREAM = "state_snapshots"

KEY_IDS = sql(
    lambda d: (
        "SELECT k.type, k.state_key, k.id FROM state_keys k "
        f"JOIN {d.unnest('requested', 'type text, state_key text')} "
        "ON k.type = requested.type AND k.state_key = requested.state_key"
    )
)
KEY_NAMES = sql(
    lambda d: f"SELECT id, type, state_key FROM state_keys WHERE {d.any_of('id', 1, 'bigint')}"
)
# SQLite needs the WHERE to tell ON CONFLICT from the ON of a join.
INSERT_KEYS = sql(
    lambda d: (
        "INSERT INTO state_keys (id, type, state_key) SELECT new.id, new.type, new.state_key "
        f"FROM {d.unnest('new', 'id bigint, type text, state_key text')} WHERE true "
        "ON CONFLICT (type, state_key) DO NOTHING RETURNING type, state_key, id"
    )
)
INSERT_SNAPSHOTS = InsertRows(
    "state_snapshots",
    "id bigint, room_id text, parent_id bigint, hops smallint, delta bytea",
)
CHAIN = """
WITH RECURSIVE chain (step, id, parent_id, delta) AS (
    SELECT 0, id, parent_id, delta FROM state_snapshots WHERE id = $1
    UNION ALL
    SELECT chain.step + 1, s.id, s.parent_id, s.delta
    FROM state_snapshots s JOIN chain ON s.id = chain.parent_id
)
SELECT id, delta FROM chain ORDER BY step DESC
"""
HOPS = "SELECT hops FROM state_snapshots WHERE id = $1"
CURRENT = """
SELECT type, state_key, event_id, membership FROM current_state WHERE room_id = $1
"""
CURRENT_IN = sql(
    lambda d: (
        "SELECT room_id, type, state_key, event_id FROM current_state "
        f"WHERE {d.any_of('room_id', 1, 'text')}"
    )
)
CURRENT_OF_TYPES = sql(
    lambda d: (
        "SELECT type, state_key, event_id FROM current_state "
        f"WHERE room_id = $1 AND {d.any_of('type', 2, 'text')}"
    )
)
CURRENT_OF_KEYS = sql(
    lambda d: (
        "SELECT c.type, c.state_key, c.event_id FROM current_state c "
        f"JOIN {d.unnest('requested', 'type text, state_key text', first=2)} "
        "ON c.type = requested.type AND c.state_key = requested.state_key WHERE c.room_id = $1"
    )
)
UPSERT_CURRENT = InsertRows(
    "current_state",
    "room_id text, type text, state_key text, event_id text, stream_id bigint, membership text",
    conflict=(
        "ON CONFLICT (room_id, type, state_key) DO UPDATE SET event_id = excluded.event_id, "
        "stream_id = excluded.stream_id, membership = excluded.membership"
    ),
)
DELETE_CURRENT = "DELETE FROM current_state WHERE room_id = $1 AND type = $2 AND state_key = $3"

Key = tuple[str, str]


class SnapshotRecord(NamedTuple):
    """A row of `state_snapshots`."""

    id: int
    room_id: str
    parent_id: int | None
    hops: int
    delta: bytes


def pack(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Encode (number of the key, stream ID) pairs."""
    numbers = array("q", chain.from_iterable(pairs))
    _swap_bytes(numbers)
    return numbers.tobytes()


def unpack(delta: bytes) -> Iterable[tuple[int, int]]:
    """Decode the pairs that `pack` encoded."""
    numbers = array("q")
    numbers.frombytes(delta)
    _swap_bytes(numbers)
    return zip(numbers[::2], numbers[1::2], strict=True)


def _swap_bytes(numbers: "array[int]") -> None:
    if sys.byteorder == "little":
        numbers.byteswap()


async def key_ids(tx: Tx, keys: Sequence[Key]) -> dict[Key, int]:
    """Return the numbers of those keys that are interned."""
    types = [key[0] for key in keys]
    state_keys = [key[1] for key in keys]
    rows = await tx.fetch(KEY_IDS, types, state_keys)
    return {(row[0], row[1]): row[2] for row in rows}


async def intern_keys(tx: Tx, keys: Iterable[Key]) -> dict[Key, int]:
    """Return the numbers of keys, interning those that are new."""
    requested = sorted(set(keys))
    if not requested:
        return {}
    numbers = await key_ids(tx, requested)
    # In sorted order, so that two writers that intern the same keys cannot deadlock.
    missing = [key for key in requested if key not in numbers]
    if not missing:
        return numbers
    ids = await tx.next_ids(_KEYS_STREAM, len(missing))
    types, state_keys = [key[0] for key in missing], [key[1] for key in missing]
    for row in await tx.fetch(INSERT_KEYS, ids, types, state_keys):
        numbers[(row[0], row[1])] = row[2]
    # Another writer may have interned some of them first; its numbers are used.
    conflicting = [key for key in missing if key not in numbers]
    return {**numbers, **await key_ids(tx, conflicting)} if conflicting else numbers


async def key_names(tx: Tx, ids: Sequence[int]) -> dict[int, Key]:
    """Return the keys of numbers."""
    return {row[0]: (row[1], row[2]) for row in await tx.fetch(KEY_NAMES, list(ids))}


async def new_snapshot_ids(tx: Tx, count: int) -> list[int]:
    """Allocate snapshot IDs."""
    return await tx.next_ids(_SNAPSHOTS_STREAM, count)


async def insert_snapshots(tx: Tx, records: Sequence[SnapshotRecord]) -> None:
    """Store snapshots whose parents are stored already or among them."""
    await tx.insert_rows(INSERT_SNAPSHOTS, records)


async def hops_of(tx: Tx, snapshot_id: int) -> int:
    """Return the number of parents between a snapshot and its ancestor without parent."""
    return int(await tx.fetchval(HOPS, snapshot_id) or 0)


async def load_chain(tx: Tx, snapshot_id: int) -> list[tuple[int, bytes]]:
    """Return (id, delta) of a snapshot and its ancestors, the oldest first.

    The result is empty for snapshot 0 and for unknown snapshots.
    """
    if snapshot_id == EMPTY_SNAPSHOT:
        return []
    return [(row[0], bytes(row[1])) for row in await tx.fetch(CHAIN, snapshot_id)]


async def snapshot_numbers(tx: Tx, snapshot_id: int) -> dict[int, int]:
    """Return a snapshot as {number of the key: stream ID of the event}."""
    return apply_deltas({}, (delta for _, delta in await load_chain(tx, snapshot_id)))


def apply_deltas(base: Mapping[int, int], deltas: Iterable[bytes]) -> dict[int, int]:
    """Apply deltas, oldest first, to a map of numbers; drop removed keys."""
    result = dict(base)
    for delta in deltas:
        result.update(unpack(delta))
    return {key: stream_id for key, stream_id in result.items() if stream_id != REMOVED}


def entries_of(deltas: Sequence[bytes], key_numbers: Collection[int]) -> dict[int, int]:
    """Return entries of the snapshot that deltas, oldest first, make; at least those of the keys.

    A few keys are searched in the bytes, since unpacking a large room costs milliseconds.
    """
    if len(key_numbers) > _MAX_SEARCHED_KEYS:
        return apply_deltas({}, deltas)
    found: dict[int, int] = {}
    for number in key_numbers:
        stream_ids = (_search(delta, number) for delta in reversed(deltas))
        latest = next((each for each in stream_ids if each is not None), REMOVED)
        if latest != REMOVED:
            found[number] = latest
    return found


def _search(delta: bytes, key_number: int) -> int | None:
    """Return the stream ID of a key, or REMOVED; None if the delta does not have the key."""
    packed = key_number.to_bytes(_NUMBER_BYTES, "big")
    start = delta.find(packed)
    # The bytes may also occur in a stream ID, or across two numbers.
    while start % _PAIR_BYTES and start != -1:
        start = delta.find(packed, start + 1)
    if start == -1:
        return None
    stream_id = delta[start + _NUMBER_BYTES : start + _PAIR_BYTES]
    return int.from_bytes(stream_id, "big", signed=True)


async def resolve_numbers(tx: Tx, numbers: Mapping[int, int]) -> dict[Key, str]:
    """Convert a map of numbers to {(type, state_key): event ID}."""
    if not numbers:
        return {}
    names = await key_names(tx, list(numbers))
    ids = await events.event_ids_of(tx, list(numbers.values()))
    return {names[key]: ids[stream_id] for key, stream_id in numbers.items()}


async def snapshot_subset(tx: Tx, snapshot_id: int, keys: Sequence[Key]) -> dict[Key, str]:
    """Return some entries of a snapshot; resolves only the requested keys."""
    requested = await key_ids(tx, keys)
    deltas = [delta for _, delta in await load_chain(tx, snapshot_id)]
    numbers = entries_of(deltas, requested.values())
    present = {key: number for key, number in requested.items() if number in numbers}
    ids = await events.event_ids_of(tx, [numbers[number] for number in present.values()])
    return {key: ids[numbers[number]] for key, number in present.items()}


async def load_current(tx: Tx, room_id: str) -> Sequence[Row]:
    """Return the whole current state of a room: (type, state_key, event_id, membership)."""
    return await tx.fetch(CURRENT, room_id)


async def load_current_of_rooms(tx: Tx, room_ids: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """List (room_id, type, state_key, event_id) of the current state of rooms."""
    rows = await tx.fetch(CURRENT_IN, list(room_ids))
    return [(row[0], row[1], row[2], row[3]) for row in rows]


async def load_current_of_types(tx: Tx, room_id: str, types: Sequence[str]) -> dict[Key, str]:
    """Return the entries of some types in the current state of a room."""
    rows = await tx.fetch(CURRENT_OF_TYPES, room_id, list(types))
    return {(row[0], row[1]): row[2] for row in rows}


async def load_current_of_keys(tx: Tx, room_id: str, keys: Sequence[Key]) -> dict[Key, str]:
    """Return some entries of the current state of a room."""
    types = [key[0] for key in keys]
    state_keys = [key[1] for key in keys]
    rows = await tx.fetch(CURRENT_OF_KEYS, room_id, types, state_keys)
    return {(row[0], row[1]): row[2] for row in rows}


async def set_current(tx: Tx, rows: Sequence[tuple[str, str, str, str, int, str | None]]) -> None:
    """Insert or replace entries, each key of a room at most once.

    An entry is (room_id, type, state_key, event_id, stream_id, membership).
    """
    await tx.insert_rows(UPSERT_CURRENT, rows)


async def unset_current(tx: Tx, rows: Sequence[tuple[str, str, str]]) -> None:
    """Delete entries (room_id, type, state_key)."""
    await tx.executemany(DELETE_CURRENT, rows)
