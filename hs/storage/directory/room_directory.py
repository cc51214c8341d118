"""Local room aliases, and the room lists of the server and of application services.

An alias is reserved (its room is '') before its room is created, and bound afterwards. A
reservation older than a deadline was left behind by a process that ended, and counts as free.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import Statement, sql
from hs.storage.rooms.rooms import RoomSummaryRecord

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

_SUMMARY = (
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

# Rooms that nobody can join or read are left out.
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
            f"SELECT r.room_id, {_SUMMARY} {_matching(listed, d.any_of('s.room_type', 4, 'text'))}"
            "AND (s.joined_members < $5 OR (s.joined_members = $5 AND r.room_id > $6)) "
            "ORDER BY s.joined_members DESC, r.room_id LIMIT $7"
        )
    )


def _backward(listed: str) -> Statement:
    return sql(
        lambda d: (
            f"SELECT r.room_id, {_SUMMARY} {_matching(listed, d.any_of('s.room_type', 4, 'text'))}"
            "AND (s.joined_members > $5 OR (s.joined_members = $5 AND r.room_id < $6)) "
            "ORDER BY s.joined_members, r.room_id DESC LIMIT $7"
        )
    )


class _Queries(NamedTuple):
    """The queries of one kind of room list."""

    total: Statement
    forward: Statement
    backward: Statement


_SERVER_QUERIES = _Queries(_count(MAIN), _forward(MAIN), _backward(MAIN))
_ALL_QUERIES = _Queries(_count(ANY_NETWORK), _forward(ANY_NETWORK), _backward(ANY_NETWORK))
_NETWORK_QUERIES = _Queries(_count(_network(5)), _forward(_network(8)), _backward(_network(8)))


class AliasRecord(NamedTuple):
    """The room of an alias, and the user who created the alias."""

    room_id: str
    creator: str


class RoomListQuery(NamedTuple):
    """A query for listed rooms.

    `pattern` is a lower-case LIKE pattern with backslash escapes, "" for all rooms. `network` is
    the network of an application service whose list is searched instead of the server's own.
    """

    pattern: str
    any_type: bool
    untyped: bool
    types: Sequence[str]
    network: str | None = None
    all_networks: bool = False


class ListedRoom(NamedTuple):
    """A room in the directory with its summary."""

    room_id: str
    summary: RoomSummaryRecord


class ListPosition(NamedTuple):
    """A position between two rooms of a list."""

    joined_members: int
    room_id: str


async def add_alias(
    tx: Tx, alias: str, room_id: str, creator: str, now_ms: int, stale_ms: int
) -> bool:
    """Insert an alias, or reserve it if `room_id` is ""; return False if it is taken.

    Reservations made before `stale_ms` are overwritten.
    """
    return await tx.fetchval(ADD, alias, room_id, creator, now_ms, stale_ms) is not None


async def bind_alias(tx: Tx, alias: str, room_id: str, creator: str, reserved_ms: int) -> bool:
    """Bind a reserved alias to its room; return False if the reservation is gone."""
    return await tx.fetchval(BIND, alias, room_id, creator, reserved_ms) is not None


async def release_alias(tx: Tx, alias: str, creator: str, reserved_ms: int) -> None:
    """Delete a reservation."""
    await tx.execute(RELEASE, alias, creator, reserved_ms)


async def find_alias(tx: Tx, alias: str) -> AliasRecord | None:
    """Return the room and the creator of an alias; reservations do not count."""
    row = await tx.fetchrow(FIND, alias)
    return None if row is None else AliasRecord(*row)


async def aliases_of(tx: Tx, room_id: str) -> list[str]:
    """List the aliases of a room."""
    return [row[0] for row in await tx.fetch(OF_ROOM, room_id)]


async def remove_alias(tx: Tx, alias: str, room_id: str) -> bool:
    """Delete an alias of a room; return False if it does not point to the room."""
    return await tx.execute(REMOVE, alias, room_id) > 0


async def move_aliases(tx: Tx, from_room: str, to_room: str) -> None:
    """Point all aliases of a room to another one, which also replaces it in the directory."""
    await tx.execute(MOVE, from_room, to_room)
    if await tx.fetchval(IS_LISTED, from_room):
        await tx.execute(SET_LISTED, from_room, 0)
        await tx.execute(SET_LISTED, to_room, 1)


async def set_listed(tx: Tx, room_id: str, listed: bool) -> bool:
    """Publish a room in the directory or unpublish it; return False if it is unknown."""
    return await tx.execute(SET_LISTED, room_id, int(listed)) > 0


async def is_listed(tx: Tx, room_id: str) -> bool | None:
    """Return whether the directory lists a room; None if the room is unknown."""
    is_public = await tx.fetchval(IS_LISTED, room_id)
    return None if is_public is None else bool(is_public)


async def set_network_listed(tx: Tx, instance_id: str, room_id: str, listed: bool) -> bool:
    """Add a room to a network's list or remove it; return False if the room is unknown."""
    if listed:
        return await tx.fetchval(LIST, instance_id, room_id) is not None
    await tx.execute(UNLIST, instance_id, room_id)
    return await is_listed(tx, room_id) is not None


async def count_listed(tx: Tx, query: RoomListQuery) -> int:
    """Count the matching rooms."""
    statement = _queries_for(query).total
    return int(await tx.fetchval(statement, *_arguments(query), *_of_network(query)))


async def list_after(
    tx: Tx, query: RoomListQuery, position: ListPosition, limit: int
) -> list[ListedRoom]:
    """List matching rooms after a position, largest first."""
    arguments = (*_arguments(query), *position, limit, *_of_network(query))
    rows = await tx.fetch(_queries_for(query).forward, *arguments)
    return [ListedRoom(row[0], RoomSummaryRecord(*tuple(row)[1:])) for row in rows]


async def list_before(
    tx: Tx, query: RoomListQuery, position: ListPosition, limit: int
) -> list[ListedRoom]:
    """List the matching rooms just before a position, in the order of the list."""
    arguments = (*_arguments(query), *position, limit, *_of_network(query))
    rows = await tx.fetch(_queries_for(query).backward, *arguments)
    return [ListedRoom(row[0], RoomSummaryRecord(*tuple(row)[1:])) for row in reversed(rows)]


def _queries_for(query: RoomListQuery) -> _Queries:
    if query.network is not None:
        return _NETWORK_QUERIES
    return _ALL_QUERIES if query.all_networks else _SERVER_QUERIES


def _of_network(query: RoomListQuery) -> tuple[str, ...]:
    return () if query.network is None else (query.network,)


def _arguments(query: RoomListQuery) -> tuple[str, int, int, list[str]]:
    return query.pattern, int(query.any_type), int(query.untyped), list(query.types)
