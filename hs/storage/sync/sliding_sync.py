"""Sliding sync: the stored positions of connections, and reads of many rooms at once.

A connection keeps two positions: the latest one, and the one it follows, because the client may
not have received the latest response and repeat its request. A position stores what the client
was sent up to it, as a delta to a base; several positions may share a base.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

_STREAM = "sliding_positions"
_CONNECTION = "user_id = $1 AND device_id = $2 AND conn_id = $3"

FIND = """
SELECT p.base_id, p.delta, b.content
FROM sliding_positions p LEFT JOIN sliding_bases b ON b.base_id = p.base_id
WHERE p.position_id = $4 AND p.user_id = $1 AND p.device_id = $2 AND p.conn_id = $3
"""
INSERT_POSITION = """
INSERT INTO sliding_positions
    (position_id, user_id, device_id, conn_id, base_id, delta, created_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
# A position can only follow one that is still stored.
INSERT_NEXT = """
INSERT INTO sliding_positions
    (position_id, user_id, device_id, conn_id, base_id, delta, created_ms)
SELECT $1, $2, $3, $4, $5, $6, $7
WHERE EXISTS (SELECT 1 FROM sliding_positions WHERE position_id = $8)
"""
INSERT_BASE = """
INSERT INTO sliding_bases (base_id, user_id, device_id, conn_id, content)
VALUES ($1, $2, $3, $4, $5)
"""
DROP_OTHERS = f"""
DELETE FROM sliding_positions WHERE {_CONNECTION} AND position_id <> $4 AND position_id <> $5
"""
DROP_BASES = f"""
DELETE FROM sliding_bases WHERE {_CONNECTION} AND base_id NOT IN (
    SELECT base_id FROM sliding_positions WHERE {_CONNECTION} AND base_id IS NOT NULL
)
"""
EXCESS_CONNECTIONS = """
SELECT conn_id FROM sliding_positions WHERE user_id = $1 AND device_id = $2
GROUP BY conn_id ORDER BY max(position_id) DESC LIMIT 1000 OFFSET $3
"""
DROP_CONNECTION = f"DELETE FROM sliding_positions WHERE {_CONNECTION}"
DROP_CONNECTION_BASES = f"DELETE FROM sliding_bases WHERE {_CONNECTION}"
EXPIRE = "DELETE FROM sliding_positions WHERE created_ms < $1"
EXPIRE_BASES = """
DELETE FROM sliding_bases WHERE NOT EXISTS (
    SELECT 1 FROM sliding_positions p
    WHERE p.user_id = sliding_bases.user_id AND p.device_id = sliding_bases.device_id
      AND p.conn_id = sliding_bases.conn_id AND p.base_id = sliding_bases.base_id
)
"""

# The last event of each room, of any type and of the types that count as activity: the index is
# read backwards up to the first match.
BUMPS = sql(
    lambda d: (
        "SELECT requested.room_id, (SELECT e.stream_id FROM events e "
        "WHERE e.room_id = requested.room_id AND e.status = 0 "
        f"AND {d.any_of('e.type', 2, 'text')} ORDER BY e.stream_id DESC LIMIT 1), "
        "(SELECT e.stream_id FROM events e "
        "WHERE e.room_id = requested.room_id AND e.status = 0 ORDER BY e.stream_id DESC LIMIT 1) "
        f"FROM {d.unnest('requested', 'room_id text')}"
    )
)
FACTS = sql(
    lambda d: (
        "SELECT room_id, name, avatar_url, encryption, room_type FROM room_summaries "
        f"WHERE {d.any_of('room_id', 1, 'text')}"
    )
)
STRIPPED = sql(
    lambda d: (
        "SELECT room_id, stripped_state FROM local_memberships "
        f"WHERE user_id = $2 AND {d.any_of('room_id', 1, 'text')} AND stripped_state IS NOT NULL"
    )
)
STATE = sql(
    lambda d: (
        "SELECT room_id, type, state_key, event_id FROM current_state "
        f"WHERE {d.any_of('room_id', 1, 'text')} AND ({d.any_of('type', 2, 'text')} "
        f"OR (type = 'm.room.member' AND {d.any_of('state_key', 3, 'text')}))"
    )
)
ALL_STATE = sql(
    lambda d: (
        "SELECT room_id, type, state_key, event_id FROM current_state "
        f"WHERE {d.any_of('room_id', 1, 'text')}"
    )
)
MEMBERS_SINCE = """
SELECT state_key, event_id FROM current_state
WHERE room_id = $1 AND type = 'm.room.member' AND stream_id > $2
"""


class ConnectionKey(NamedTuple):
    """The user, device and client-chosen ID of a connection."""

    user_id: str
    device_id: str
    conn_id: str


class PositionRecord(NamedTuple):
    """What the client was sent up to a position: a base, if any, and the delta to it."""

    base_id: int | None
    delta: bytes
    base: bytes | None


class NewPositionRecord(NamedTuple):
    """A position to store after `previous`; with `base`, it gets a base of its own."""

    key: ConnectionKey
    previous: int | None
    base_id: int | None
    base: bytes | None
    delta: bytes
    created_ms: int


class RoomListFacts(NamedTuple):
    """The facts by which room lists are filtered and sorted."""

    room_id: str
    name: str | None
    avatar_url: str | None
    encryption: str | None
    room_type: str | None


class StateEntry(NamedTuple):
    """An entry of a room's current state."""

    room_id: str
    type: str
    state_key: str
    event_id: str


async def find_position(tx: Tx, key: ConnectionKey, position_id: int) -> PositionRecord | None:
    """Return a position of a connection, if it is still stored."""
    row = await tx.fetchrow(FIND, *key, position_id)
    if row is None:
        return None
    return PositionRecord(row[0], bytes(row[1]), None if row[2] is None else bytes(row[2]))


async def store_position(
    tx: Tx, new: NewPositionRecord, max_connections: int
) -> tuple[int, int | None] | None:
    """Store a position, and delete all positions of the connection but this and the previous one.

    A new connection makes a device's connections beyond `max_connections` end, the least recently
    used first.

    Returns: the IDs of the position and of its base; None if `previous` is not stored any more.
    """
    [position_id] = await tx.next_ids(_STREAM, 1)
    base_id = new.base_id if new.base is None else position_id
    row = (position_id, *new.key, base_id, new.delta, new.created_ms)
    if new.previous is None:
        await tx.execute(INSERT_POSITION, *row)
    elif await tx.execute(INSERT_NEXT, *row, new.previous) == 0:
        return None
    if new.base is not None:
        await tx.execute(INSERT_BASE, base_id, *new.key, new.base)
    await tx.execute(DROP_OTHERS, *new.key, position_id, new.previous or 0)
    if new.base is not None:
        await tx.execute(DROP_BASES, *new.key)
    if new.previous is None:
        await _drop_oldest(tx, new.key, max_connections)
    return position_id, base_id


async def _drop_oldest(tx: Tx, key: ConnectionKey, max_connections: int) -> None:
    for row in await tx.fetch(EXCESS_CONNECTIONS, key.user_id, key.device_id, max_connections):
        await tx.execute(DROP_CONNECTION, key.user_id, key.device_id, row[0])
        await tx.execute(DROP_CONNECTION_BASES, key.user_id, key.device_id, row[0])


async def delete_expired(tx: Tx, before_ms: int) -> int:
    """Delete positions created before a time (ms) and unused bases; return how many positions."""
    deleted = await tx.execute(EXPIRE, before_ms)
    if deleted:
        await tx.execute(EXPIRE_BASES)
    return deleted


async def load_bump_stamps(
    tx: Tx, room_ids: Sequence[str], types: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Return, for each room, the stream IDs of its last event of these types and of any type."""
    rows = await tx.fetch(BUMPS, list(room_ids), list(types))
    return {row[0]: (row[1] or 0, row[2] or 0) for row in rows}


async def load_facts(tx: Tx, room_ids: Sequence[str]) -> list[RoomListFacts]:
    """Return the facts of those rooms whose state is stored."""
    return [RoomListFacts(*row) for row in await tx.fetch(FACTS, list(room_ids))]


async def load_stripped_state(tx: Tx, room_ids: Sequence[str], user_id: str) -> dict[str, bytes]:
    """Return the stripped state (JSON) of a user's invites and knocks, by room."""
    rows = await tx.fetch(STRIPPED, list(room_ids), user_id)
    return {row[0]: bytes(row[1]) for row in rows}


async def load_state(
    tx: Tx, room_ids: Sequence[str], types: Sequence[str], members: Sequence[str]
) -> list[StateEntry]:
    """Return the current state entries of some types, and of some members, of many rooms."""
    rows = await tx.fetch(STATE, list(room_ids), list(types), list(members))
    return [StateEntry(*row) for row in rows]


async def load_all_state(tx: Tx, room_ids: Sequence[str]) -> list[StateEntry]:
    """Return the whole current state of many rooms."""
    return [StateEntry(*row) for row in await tx.fetch(ALL_STATE, list(room_ids))]


async def list_members_since(tx: Tx, room_id: str, after: int) -> dict[str, str]:
    """Return the current member events of a room after a stream ID: {user_id: event_id}."""
    return {row[0]: row[1] for row in await tx.fetch(MEMBERS_SINCE, room_id, after)}
