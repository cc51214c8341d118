"""Aliases of this server, and which rooms its directory lists.

An alias is reserved (its room is '') before its room exists, and bound once it does; a reservation
older than a deadline was left by a process that died, and counts as free.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import Statement, sql
from hs.storage.rooms.rooms import SummaryRecord

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
MAIN: Final = "r.is_public = 1"
ANY_NETWORK: Final = (
    "(r.is_public = 1 OR EXISTS (SELECT 1 FROM network_rooms n WHERE n.room_id = r.room_id))"
)
LIST = """
INSERT INTO network_rooms (instance_id, room_id) SELECT $1, room_id FROM rooms WHERE room_id = $2
ON CONFLICT (instance_id, room_id) DO UPDATE SET room_id = excluded.room_id RETURNING room_id
"""
UNLIST = "DELETE FROM network_rooms WHERE instance_id = $1 AND room_id = $2"

# Rooms that nobody can join or read are listed in vain.
_FINDABLE = """
  s.joined_members > 0
  AND (s.join_rule IN ('public', 'knock', 'restricted', 'knock_restricted')
       OR s.history_visibility = 'world_readable')
"""


def _matching(listed: str, any_type: str) -> str:
    return f"""
FROM rooms r JOIN room_summaries s ON s.room_id = r.room_id WHERE {listed} AND {_FINDABLE}
  AND ($1 = '' OR lower(coalesce(s.name, '')) LIKE $1 ESCAPE '\\'
       OR lower(coalesce(s.topic, '')) LIKE $1 ESCAPE '\\'
       OR lower(coalesce(s.canonical_alias, '')) LIKE $1 ESCAPE '\\')
  AND ($2 = 1 OR ($3 = 1 AND s.room_type IS NULL) OR {any_type})
"""


def _network(number: int) -> str:
    return (
        "EXISTS (SELECT 1 FROM network_rooms n "
        f"WHERE n.room_id = r.room_id AND n.instance_id = ${number})"
    )


def _count(listed: str) -> Statement:
    return sql(lambda d: f"SELECT count(*) {_matching(listed, d.any_of('s.room_type', 4, 'text'))}")


def _forward(listed: str) -> Statement:
    return sql(
        lambda d: (
            f"SELECT r.room_id, {_SHOWN} {_matching(listed, d.any_of('s.room_type', 4, 'text'))}"
            "AND (s.joined_members < $5 OR (s.joined_members = $5 AND r.room_id > $6)) "
            "ORDER BY s.joined_members DESC, r.room_id LIMIT $7"
        )
    )


def _backward(listed: str) -> Statement:
    return sql(
        lambda d: (
            f"SELECT r.room_id, {_SHOWN} {_matching(listed, d.any_of('s.room_type', 4, 'text'))}"
            "AND (s.joined_members > $5 OR (s.joined_members = $5 AND r.room_id < $6)) "
            "ORDER BY s.joined_members, r.room_id DESC LIMIT $7"
        )
    )


class _Queries(NamedTuple):
    """The queries of one kind of list."""

    total: Statement
    forward: Statement
    backward: Statement


_OF_SERVER = _Queries(_count(MAIN), _forward(MAIN), _backward(MAIN))
_OF_ALL = _Queries(_count(ANY_NETWORK), _forward(ANY_NETWORK), _backward(ANY_NETWORK))
_OF_NETWORK = _Queries(_count(_network(5)), _forward(_network(8)), _backward(_network(8)))


class AliasRecord(NamedTuple):
    """What an alias stands for, and who made it."""

    room_id: str
    creator: str


class Wanted(NamedTuple):
    """Which listed rooms are asked for.

    `pattern` is a LIKE pattern in lower case with backslashes as escapes, "" for all. `network`
    is that of an application service whose list is asked for instead of the server's own.
    """

    pattern: str
    any_type: bool
    untyped: bool
    types: Sequence[str]
    network: str | None = None
    all_networks: bool = False


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


async def set_network_listed(tx: Tx, instance_id: str, room_id: str, listed: bool) -> bool:
    """Put a room into a network's list or take it out; tell whether the room is known."""
    if listed:
        return await tx.fetchval(LIST, instance_id, room_id) is not None
    await tx.execute(UNLIST, instance_id, room_id)
    return await is_listed(tx, room_id) is not None


async def count_listed(tx: Tx, wanted: Wanted) -> int:
    """Count the rooms that match."""
    statement = _queries_for(wanted).total
    return int(await tx.fetchval(statement, *_arguments(wanted), *_of_network(wanted)))


async def list_after(tx: Tx, wanted: Wanted, place: Place, limit: int) -> list[ListedRoom]:
    """List matching rooms that come after a place, the largest first."""
    arguments = (*_arguments(wanted), *place, limit, *_of_network(wanted))
    rows = await tx.fetch(_queries_for(wanted).forward, *arguments)
    return [ListedRoom(row[0], SummaryRecord(*tuple(row)[1:])) for row in rows]


async def list_before(tx: Tx, wanted: Wanted, place: Place, limit: int) -> list[ListedRoom]:
    """List the matching rooms that come just before a place, in the order of the list."""
    arguments = (*_arguments(wanted), *place, limit, *_of_network(wanted))
    rows = await tx.fetch(_queries_for(wanted).backward, *arguments)
    return [ListedRoom(row[0], SummaryRecord(*tuple(row)[1:])) for row in reversed(rows)]


def _queries_for(wanted: Wanted) -> _Queries:
    if wanted.network is not None:
        return _OF_NETWORK
    return _OF_ALL if wanted.all_networks else _OF_SERVER


def _of_network(wanted: Wanted) -> tuple[str, ...]:
    return () if wanted.network is None else (wanted.network,)


def _arguments(wanted: Wanted) -> tuple[str, int, int, list[str]]:
    return wanted.pattern, int(wanted.any_type), int(wanted.untyped), list(wanted.types)
