"""Aliases of this server, and which rooms its directory lists.

An alias is reserved (its room is '') before its room exists, and bound once it does; a reservation
older than a deadline was left by a process that died, and counts as free.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rooms import SummaryRecord

ADD = """
INSERT INTO room_aliases (alias, room_id, creator, created_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (alias) DO UPDATE SET
    room_id = excluded.room_id, creator = excluded.creator, created_ms = excluded.created_ms
WHERE room_aliases.room_id = '' AND room_aliases.created_ms < $5
RETURNING alias
"""
BIND = """
UPDATE room_aliases SET room_id = $2
WHERE alias = $1 AND room_id = '' AND creator = $3 AND created_ms = $4 RETURNING alias
"""
RELEASE = """
DELETE FROM room_aliases
WHERE alias = $1 AND room_id = '' AND creator = $2 AND created_ms = $3
"""
FIND = "SELECT room_id, creator FROM room_aliases WHERE alias = $1 AND room_id <> ''"
OF_ROOM = "SELECT alias FROM room_aliases WHERE room_id = $1 ORDER BY alias"
REMOVE = "DELETE FROM room_aliases WHERE alias = $1 AND room_id = $2"
MOVE = "UPDATE room_aliases SET room_id = $2 WHERE room_id = $1"

SET_LISTED = "UPDATE rooms SET is_public = $2 WHERE room_id = $1"
IS_LISTED = "SELECT is_public FROM rooms WHERE room_id = $1"

_SHOWN = (
    "s.name, s.topic, s.avatar_url, s.canonical_alias, s.join_rule, s.history_visibility, "
    "s.guest_access, s.encryption, s.room_type, s.joined_members, s.invited_members, s.tombstoned"
)
# Rooms that nobody can join or read are listed in vain.
_LISTED = """
FROM rooms r JOIN room_summaries s ON s.room_id = r.room_id
WHERE r.is_public = 1 AND s.joined_members > 0
  AND (s.join_rule IN ('public', 'knock', 'restricted', 'knock_restricted')
       OR s.history_visibility = 'world_readable')
"""


def _matching(any_type: str) -> str:
    return f"""{_LISTED}
  AND ($1 = '' OR lower(coalesce(s.name, '')) LIKE $1 ESCAPE '\\'
       OR lower(coalesce(s.topic, '')) LIKE $1 ESCAPE '\\'
       OR lower(coalesce(s.canonical_alias, '')) LIKE $1 ESCAPE '\\')
  AND ($2 = 1 OR ($3 = 1 AND s.room_type IS NULL) OR {any_type})
"""


COUNT = sql(lambda d: f"SELECT count(*) {_matching(d.any_of('s.room_type', 4, 'text'))}")
FORWARD = sql(
    lambda d: (
        f"SELECT r.room_id, {_SHOWN} {_matching(d.any_of('s.room_type', 4, 'text'))}"
        "AND (s.joined_members < $5 OR (s.joined_members = $5 AND r.room_id > $6)) "
        "ORDER BY s.joined_members DESC, r.room_id LIMIT $7"
    )
)
BACKWARD = sql(
    lambda d: (
        f"SELECT r.room_id, {_SHOWN} {_matching(d.any_of('s.room_type', 4, 'text'))}"
        "AND (s.joined_members > $5 OR (s.joined_members = $5 AND r.room_id < $6)) "
        "ORDER BY s.joined_members, r.room_id DESC LIMIT $7"
    )
)


class AliasRecord(NamedTuple):
    """What an alias stands for, and who made it."""

    room_id: str
    creator: str


class Wanted(NamedTuple):
    """Which listed rooms are asked for.

    `pattern` is a LIKE pattern in lower case with backslashes as escapes, "" for all.
    """

    pattern: str
    any_type: bool
    untyped: bool
    types: Sequence[str]


class ListedRoom(NamedTuple):
    """A room of the directory and what lists show of it."""

    room_id: str
    summary: SummaryRecord


class Place(NamedTuple):
    """A place between two rooms of the list."""

    joined_members: int
    room_id: str


async def add_alias(
    tx: Tx, alias: str, room_id: str, creator: str, now_ms: int, stale_ms: int
) -> bool:
    """Add an alias, reserved only if the room is ''; tell whether it was free.

    Reservations made before `stale_ms` are overwritten.
    """
    return await tx.fetchval(ADD, alias, room_id, creator, now_ms, stale_ms) is not None


async def bind_alias(tx: Tx, alias: str, room_id: str, creator: str, reserved_ms: int) -> bool:
    """Give a reserved alias its room; tell whether the reservation was still there."""
    return await tx.fetchval(BIND, alias, room_id, creator, reserved_ms) is not None


async def release_alias(tx: Tx, alias: str, creator: str, reserved_ms: int) -> None:
    """Give a reservation up."""
    await tx.execute(RELEASE, alias, creator, reserved_ms)


async def find_alias(tx: Tx, alias: str) -> AliasRecord | None:
    """Give what an alias stands for."""
    row = await tx.fetchrow(FIND, alias)
    return None if row is None else AliasRecord(*row)


async def aliases_of(tx: Tx, room_id: str) -> list[str]:
    """List the aliases of a room."""
    return [row[0] for row in await tx.fetch(OF_ROOM, room_id)]


async def remove_alias(tx: Tx, alias: str, room_id: str) -> bool:
    """Remove an alias that still stands for a room; tell whether it did."""
    return await tx.execute(REMOVE, alias, room_id) > 0


async def move_aliases(tx: Tx, from_room: str, to_room: str) -> None:
    """Have all aliases of a room stand for another, and list that one instead if it was listed."""
    await tx.execute(MOVE, from_room, to_room)
    if await tx.fetchval(IS_LISTED, from_room):
        await tx.execute(SET_LISTED, from_room, 0)
        await tx.execute(SET_LISTED, to_room, 1)


async def set_listed(tx: Tx, room_id: str, listed: bool) -> bool:
    """Put a room into the directory or take it out; tell whether the room is known."""
    return await tx.execute(SET_LISTED, room_id, int(listed)) > 0


async def is_listed(tx: Tx, room_id: str) -> bool | None:
    """Tell whether the directory lists a room; None for an unknown one."""
    found = await tx.fetchval(IS_LISTED, room_id)
    return None if found is None else bool(found)


async def count_listed(tx: Tx, wanted: Wanted) -> int:
    """Count the rooms that match."""
    return int(await tx.fetchval(COUNT, *_arguments(wanted)))


async def list_after(tx: Tx, wanted: Wanted, place: Place, limit: int) -> list[ListedRoom]:
    """List matching rooms that come after a place, the largest first."""
    rows = await tx.fetch(FORWARD, *_arguments(wanted), *place, limit)
    return [ListedRoom(row[0], SummaryRecord(*tuple(row)[1:])) for row in rows]


async def list_before(tx: Tx, wanted: Wanted, place: Place, limit: int) -> list[ListedRoom]:
    """List the matching rooms that come just before a place, in the order of the list."""
    rows = await tx.fetch(BACKWARD, *_arguments(wanted), *place, limit)
    return [ListedRoom(row[0], SummaryRecord(*tuple(row)[1:])) for row in reversed(rows)]


def _arguments(wanted: Wanted) -> tuple[str, int, int, list[str]]:
    return wanted.pattern, int(wanted.any_type), int(wanted.untyped), list(wanted.types)
