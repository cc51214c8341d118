"""The servers that have users joined to rooms, and the events that are sent to them.

A row of `room_servers` counts the joined members of one server. It has the last two periods in
which the server was in the room, as the stream IDs of the rows by which it joined and left. Its
count is 0 after the last member left: then `left_id` is the end of the last period.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

OF_ROOMS = sql(
    lambda d: (
        "SELECT room_id, server FROM room_servers "
        f"WHERE joined_members > 0 AND {d.any_of('room_id', 1, 'text')}"
    )
)
LAST_CHANGES = sql(
    lambda d: (
        "SELECT room_id, max(CASE WHEN joined_members > 0 THEN joined_id ELSE left_id END) "
        f"FROM room_servers WHERE {d.any_of('room_id', 1, 'text')} AND server <> $2 "
        "GROUP BY room_id"
    )
)
# The servers in a room after an event, and those that left it with the event.
AT_EVENT = """
SELECT server FROM room_servers WHERE room_id = $1 AND (
    joined_id <= $2 AND (joined_members > 0 OR left_id >= $2)
    OR earlier_joined_id <= $2 AND earlier_left_id >= $2
)
"""
COUNTS = sql(
    lambda d: (
        "SELECT s.room_id, s.server, s.joined_members FROM room_servers s "
        f"JOIN {d.unnest('requested', 'room_id text, server text')} "
        "ON s.room_id = requested.room_id AND s.server = requested.server"
    )
)
_BEGINS = "CASE WHEN room_servers.joined_members <= 0 AND excluded.joined_id > 0 THEN"
ADD = InsertRows(
    "room_servers",
    "room_id text, server text, joined_members bigint, joined_id bigint, left_id bigint",
    conflict=(
        "ON CONFLICT (room_id, server) DO UPDATE SET "
        "joined_members = room_servers.joined_members + excluded.joined_members, "
        f"joined_id = {_BEGINS} excluded.joined_id ELSE room_servers.joined_id END, "
        f"left_id = {_BEGINS} excluded.left_id "
        "ELSE coalesce(excluded.left_id, room_servers.left_id) END, "
        f"earlier_joined_id = {_BEGINS} room_servers.joined_id "
        "ELSE room_servers.earlier_joined_id END, "
        f"earlier_left_id = {_BEGINS} room_servers.left_id "
        "ELSE room_servers.earlier_left_id END"
    ),
)
WITH_SHARED_ROOMS = sql(
    lambda d: (
        "SELECT DISTINCT server FROM room_servers "
        f"WHERE {d.any_of('server', 1, 'text')} AND joined_members > 0"
    )
)
IS_IN_ROOM = """
SELECT 1 FROM room_servers WHERE room_id = $1 AND server = $2 AND joined_members > 0
"""
WAS_IN_ROOM = "SELECT 1 FROM room_servers WHERE room_id = $1 AND server = $2"
# A row of `left_id` may be that of an outlier, which has another stream ID.
STATES_LEFT = """
SELECT e.snapshot_id FROM room_servers s JOIN events e ON e.stream_id = s.left_id
WHERE s.room_id = $1 AND s.server = $2 AND e.snapshot_id IS NOT NULL
UNION SELECT e.snapshot_id FROM room_servers s JOIN events e ON e.stream_id = s.earlier_left_id
WHERE s.room_id = $1 AND s.server = $2 AND e.snapshot_id IS NOT NULL
UNION SELECT e.snapshot_id FROM room_servers s JOIN placed_outliers p ON p.position = s.left_id
JOIN events e ON e.stream_id = p.number
WHERE s.room_id = $1 AND s.server = $2 AND e.snapshot_id IS NOT NULL
"""
LARGEST = """
SELECT server FROM room_servers WHERE room_id = $1 AND joined_members > 0 AND server <> $2
ORDER BY joined_members DESC, server LIMIT $3
"""
ROOMS_WITH = sql(
    lambda d: (
        "SELECT room_id FROM room_servers WHERE server = $1 AND joined_members > 0 "
        f"AND {d.any_of('room_id', 2, 'text')}"
    )
)
SHARED = """
SELECT theirs.room_id FROM room_servers theirs
JOIN room_servers ours ON ours.room_id = theirs.room_id AND ours.server = $2
WHERE theirs.server = $1 AND theirs.joined_members > 0 AND ours.joined_members > 0
ORDER BY theirs.room_id
"""
ADD_RELAYED = InsertRows("relayed_events", "stream_id bigint, event_id text")
ADD_REMOVALS = InsertRows(
    "outside_removals",
    "server text, room_id text, user_id text, stream_id bigint",
    conflict=(
        "ON CONFLICT (server, room_id, user_id) DO UPDATE SET stream_id = excluded.stream_id"
    ),
)


class CountChange(NamedTuple):
    """How a commit changes the joined members of a server in a room.

    `joined_id` is the row of its first join in the commit, or 0: if it was not in the room, that
    begins a period. `left_id` is the row by which the last member left, if that is so.
    """

    room_id: str
    server: str
    difference: int
    joined_id: int
    left_id: int | None


class RemovalRecord(NamedTuple):
    """An event by which a user of a server that is not in the room was removed from it."""

    server: str
    room_id: str
    user_id: str
    stream_id: int


async def with_shared_rooms(tx: Tx, servers: Sequence[str]) -> list[str]:
    """Return the servers that are in any room."""
    return [row[0] for row in await tx.fetch(WITH_SHARED_ROOMS, list(servers))]


async def servers_of(tx: Tx, room_ids: Sequence[str]) -> list[tuple[str, str]]:
    """List (room_id, server) for all servers in rooms."""
    return [(row[0], row[1]) for row in await tx.fetch(OF_ROOMS, list(room_ids))]


async def last_changes(tx: Tx, room_ids: Sequence[str], except_server: str) -> dict[str, int]:
    """Return the stream IDs at which a server but one has joined or left last, by room."""
    rows = await tx.fetch(LAST_CHANGES, list(room_ids), except_server)
    return {row[0]: row[1] or 0 for row in rows}


async def servers_at(tx: Tx, room_id: str, stream_id: int) -> list[str]:
    """List the servers in a room after an event, and those that left with it."""
    return [row[0] for row in await tx.fetch(AT_EVENT, room_id, stream_id)]


async def counts(tx: Tx, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the numbers of joined members by (room_id, server); of some there is no row."""
    rows = await tx.fetch(COUNTS, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): row[2] for row in rows}


async def add(tx: Tx, rows: Sequence[CountChange]) -> None:
    """Add to the counts, to each row at most once."""
    await tx.insert_rows(ADD, rows)


async def is_in_room(tx: Tx, room_id: str, server: str) -> bool:
    """Return whether a server has a user who is joined to a room."""
    return await tx.fetchval(IS_IN_ROOM, room_id, server) is not None


async def was_in_room(tx: Tx, room_id: str, server: str) -> bool:
    """Return whether a server has, or had, a user who is joined to a room."""
    return await tx.fetchval(WAS_IN_ROOM, room_id, server) is not None


async def states_left(tx: Tx, room_id: str, server: str) -> list[int]:
    """List the snapshots before the events by which a server has left a room."""
    return [row[0] for row in await tx.fetch(STATES_LEFT, room_id, server)]


async def list_largest(tx: Tx, room_id: str, except_server: str, limit: int) -> list[str]:
    """List the servers in a room but one, those with most members first."""
    return [row[0] for row in await tx.fetch(LARGEST, room_id, except_server, limit)]


async def rooms_with(tx: Tx, server: str, room_ids: Sequence[str]) -> set[str]:
    """Return those of the rooms that a server is in."""
    return {row[0] for row in await tx.fetch(ROOMS_WITH, server, list(room_ids))}


async def shared_rooms(tx: Tx, server: str, own_server: str) -> list[str]:
    """List the rooms in which both a server and this one have joined users."""
    return [row[0] for row in await tx.fetch(SHARED, server, own_server)]


async def add_relayed(tx: Tx, rows: Sequence[tuple[int, str]]) -> None:
    """Store which events are relayed: (stream_id of the row, event_id)."""
    await tx.insert_rows(ADD_RELAYED, rows)


async def add_removals(tx: Tx, rows: Sequence[RemovalRecord]) -> None:
    """Store removals of users whose servers are not in the room, each user's at most once."""
    await tx.insert_rows(ADD_REMOVALS, rows)
