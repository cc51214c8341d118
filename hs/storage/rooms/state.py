"""State: interned keys, snapshots as packed deltas, and the current state entry by entry.

A snapshot is its parent's map with its delta laid over it. A delta is a run of pairs of 64-bit
big-endian integers: the interned key, unsigned, and the event's number, signed; 0 in place of the
number removes the key. Snapshot 0 is the empty state and has no row.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rooms import events
from hs.storage.rows import Rows

EMPTY_SNAPSHOT = 0
REMOVED = 0

_PAIR = struct.Struct(">Qq")
_KEYS_STREAM = "state_keys"
_SNAPSHOTS_STREAM = "state_snapshots"

KEY_IDS = sql(
    lambda d: (
        "SELECT k.type, k.state_key, k.id FROM state_keys k "
        f"JOIN {d.unnest('wanted', 'type text, state_key text')} "
        "ON k.type = wanted.type AND k.state_key = wanted.state_key"
    )
)
KEY_NAMES = sql(
    lambda d: f"SELECT id, type, state_key FROM state_keys WHERE {d.any_of('id', 1, 'bigint')}"
)
# SQLite needs the WHERE to tell the conflict's ON from that of a join.
INSERT_KEYS = sql(
    lambda d: (
        "INSERT INTO state_keys (id, type, state_key) SELECT new.id, new.type, new.state_key "
        f"FROM {d.unnest('new', 'id bigint, type text, state_key text')} WHERE true "
        "ON CONFLICT (type, state_key) DO NOTHING RETURNING type, state_key, id"
    )
)
INSERT_SNAPSHOTS = Rows(
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
SELECT type, state_key, event_id, stream_id, membership FROM current_state WHERE room_id = $1
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
        f"JOIN {d.unnest('wanted', 'type text, state_key text', first=2)} "
        "ON c.type = wanted.type AND c.state_key = wanted.state_key WHERE c.room_id = $1"
    )
)
UPSERT_CURRENT = Rows(
    "current_state",
    "room_id text, type text, state_key text, event_id text, stream_id bigint, membership text",
    conflict=(
        "ON CONFLICT (room_id, type, state_key) DO UPDATE SET event_id = excluded.event_id, "
        "stream_id = excluded.stream_id, membership = excluded.membership"
    ),
)
DELETE_CURRENT = "DELETE FROM current_state WHERE room_id = $1 AND type = $2 AND state_key = $3"

Key = tuple[str, str]


class CurrentEntry(NamedTuple):
    """One row of current_state, in the order of the columns of the upsert after room_id."""

    type: str
    state_key: str
    event_id: str
    stream_id: int
    membership: str | None


class SnapshotRecord(NamedTuple):
    """One row of state_snapshots."""

    id: int
    room_id: str
    parent_id: int | None
    hops: int
    delta: bytes


def pack(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Write (interned key, event number) pairs."""
    write = _PAIR.pack
    return b"".join([write(key, number) for key, number in pairs])


def unpack(delta: bytes) -> Iterable[tuple[int, int]]:
    """Read what `pack` wrote."""
    return _PAIR.iter_unpack(delta)


async def key_ids(tx: Tx, keys: Sequence[Key]) -> dict[Key, int]:
    """Give the numbers of those keys that are interned."""
    types = [key[0] for key in keys]
    state_keys = [key[1] for key in keys]
    rows = await tx.fetch(KEY_IDS, types, state_keys)
    return {(row[0], row[1]): row[2] for row in rows}


async def intern_keys(tx: Tx, keys: Iterable[Key]) -> dict[Key, int]:
    """Give the numbers of keys, interning those that are new."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    found = await key_ids(tx, wanted)
    # Sorted, so that two writers that intern the same keys cannot block each other for ever.
    missing = [key for key in wanted if key not in found]
    if not missing:
        return found
    ids = await tx.next_ids(_KEYS_STREAM, len(missing))
    types, state_keys = [key[0] for key in missing], [key[1] for key in missing]
    for row in await tx.fetch(INSERT_KEYS, ids, types, state_keys):
        found[(row[0], row[1])] = row[2]
    # Another writer may have been first: its number counts.
    late = [key for key in missing if key not in found]
    return {**found, **await key_ids(tx, late)} if late else found


async def key_names(tx: Tx, ids: Sequence[int]) -> dict[int, Key]:
    """Give the keys of numbers."""
    return {row[0]: (row[1], row[2]) for row in await tx.fetch(KEY_NAMES, list(ids))}


async def new_snapshot_ids(tx: Tx, count: int) -> list[int]:
    """Take numbers for snapshots."""
    return await tx.next_ids(_SNAPSHOTS_STREAM, count)


async def insert_snapshots(tx: Tx, records: Sequence[SnapshotRecord]) -> None:
    """Store snapshots whose parents are stored, or among them."""
    await tx.insert_rows(INSERT_SNAPSHOTS, records)


async def hops_of(tx: Tx, snapshot_id: int) -> int:
    """Give how far a snapshot is from the full one below it."""
    return int(await tx.fetchval(HOPS, snapshot_id) or 0)


async def chain(tx: Tx, snapshot_id: int) -> list[tuple[int, bytes]]:
    """Give (id, delta) of a snapshot and all below it, the full one first.

    Empty when there is no such snapshot, and for snapshot 0.
    """
    if snapshot_id == EMPTY_SNAPSHOT:
        return []
    return [(row[0], bytes(row[1])) for row in await tx.fetch(CHAIN, snapshot_id)]


async def snapshot_numbers(tx: Tx, snapshot_id: int) -> dict[int, int]:
    """Give a snapshot's map with numbers for keys and for events."""
    return overlay({}, (delta for _, delta in await chain(tx, snapshot_id)))


def overlay(base: Mapping[int, int], deltas: Iterable[bytes]) -> dict[int, int]:
    """Lay deltas over a map of numbers, the oldest first."""
    result = dict(base)
    for delta in deltas:
        result.update(unpack(delta))
    return {key: number for key, number in result.items() if number != REMOVED}


async def named(tx: Tx, numbers: Mapping[int, int]) -> dict[Key, str]:
    """Turn a map of numbers into one of keys and event IDs."""
    if not numbers:
        return {}
    names = await key_names(tx, list(numbers))
    ids = await events.ids_of(tx, list(numbers.values()))
    return {names[key]: ids[number] for key, number in numbers.items()}


async def snapshot_subset(tx: Tx, snapshot_id: int, keys: Sequence[Key]) -> dict[Key, str]:
    """Give some entries of a snapshot; only these are looked up."""
    wanted = await key_ids(tx, keys)
    numbers = await snapshot_numbers(tx, snapshot_id)
    kept = {key: number for key, number in wanted.items() if number in numbers}
    ids = await events.ids_of(tx, [numbers[number] for number in kept.values()])
    return {key: ids[numbers[number]] for key, number in kept.items()}


async def current(tx: Tx, room_id: str) -> list[CurrentEntry]:
    """Give all of a room's current state."""
    return [CurrentEntry(*row) for row in await tx.fetch(CURRENT, room_id)]


async def current_in(tx: Tx, room_ids: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """List (room_id, type, state_key, event_id) of the current state of rooms."""
    rows = await tx.fetch(CURRENT_IN, list(room_ids))
    return [(row[0], row[1], row[2], row[3]) for row in rows]


async def current_of_types(tx: Tx, room_id: str, types: Sequence[str]) -> dict[Key, str]:
    """Give a room's current state of some types."""
    rows = await tx.fetch(CURRENT_OF_TYPES, room_id, list(types))
    return {(row[0], row[1]): row[2] for row in rows}


async def current_of_keys(tx: Tx, room_id: str, keys: Sequence[Key]) -> dict[Key, str]:
    """Give some entries of a room's current state."""
    types = [key[0] for key in keys]
    state_keys = [key[1] for key in keys]
    rows = await tx.fetch(CURRENT_OF_KEYS, room_id, types, state_keys)
    return {(row[0], row[1]): row[2] for row in rows}


async def set_current(tx: Tx, rows: Sequence[tuple[str, str, str, str, int, str | None]]) -> None:
    """Put entries, (room_id, *CurrentEntry) each; no key of a room twice."""
    await tx.insert_rows(UPSERT_CURRENT, rows)


async def unset_current(tx: Tx, rows: Sequence[tuple[str, str, str]]) -> None:
    """Remove entries, (room_id, type, state_key) each."""
    await tx.executemany(DELETE_CURRENT, rows)
