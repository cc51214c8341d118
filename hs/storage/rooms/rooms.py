"""Rooms: versions, heads, summaries for room lists, and the memberships of local users."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

INSERT_ROOM = InsertRows(
    "rooms",
    "room_id text, version text, creator text, created_ms bigint",
    conflict=(
        "ON CONFLICT (room_id) DO UPDATE SET version = excluded.version, creator = excluded.creator"
    ),
)
INSERT_OUTSIDE_ROOM = InsertRows(
    "rooms",
    "room_id text, version text, creator text, created_ms bigint",
    conflict="ON CONFLICT (room_id) DO NOTHING",
)
VERSIONS = sql(
    lambda d: f"SELECT room_id, version FROM rooms WHERE {d.any_of('room_id', 1, 'text')}"
)
HEAD = "SELECT extremities, snapshot_id, depth, stream_id FROM room_heads WHERE room_id = $1"
SET_HEADS = InsertRows(
    "room_heads",
    "room_id text, extremities text, snapshot_id bigint, depth bigint, stream_id bigint, "
    "sent_id bigint",
    conflict=(
        "ON CONFLICT (room_id) DO UPDATE SET extremities = excluded.extremities, "
        "snapshot_id = excluded.snapshot_id, depth = excluded.depth, "
        # Outliers have negative stream IDs, and are never the last event.
        "stream_id = CASE WHEN excluded.stream_id > room_heads.stream_id "
        "THEN excluded.stream_id ELSE room_heads.stream_id END, "
        "sent_id = coalesce(excluded.sent_id, room_heads.sent_id)"
    ),
)
_SUMMARY = (
    "name text, topic text, avatar_url text, canonical_alias text, join_rule text, "
    "history_visibility text, guest_access text, encryption text, room_type text, "
    "joined_members bigint, invited_members bigint, tombstoned smallint"
)
_SUMMARY_NAMES = [column.split()[0] for column in _SUMMARY.split(", ")]
SUMMARY = f"SELECT {', '.join(_SUMMARY_NAMES)} FROM room_summaries WHERE room_id = $1"
MEMBER_COUNTS = sql(
    lambda d: (
        "SELECT room_id, joined_members, invited_members FROM room_summaries "
        f"WHERE {d.any_of('room_id', 1, 'text')}"
    )
)
SET_SUMMARIES = InsertRows(
    "room_summaries",
    f"room_id text, {_SUMMARY}",
    conflict=(
        "ON CONFLICT (room_id) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in _SUMMARY_NAMES)
    ),
)
SET_LOCAL_MEMBERSHIPS = InsertRows(
    "local_memberships",
    "user_id text, room_id text, membership text, event_id text, stream_id bigint, sender text",
    conflict=(
        "ON CONFLICT (user_id, room_id) DO UPDATE SET membership = excluded.membership, "
        "event_id = excluded.event_id, stream_id = excluded.stream_id, "
        "sender = excluded.sender, forgotten = 0, stripped_state = NULL"
    ),
)

SET_STRIPPED_STATE = """
UPDATE local_memberships SET stripped_state = $3 WHERE user_id = $1 AND room_id = $2
"""

FORGET = """
UPDATE local_memberships SET forgotten = 1
WHERE user_id = $1 AND room_id = $2 AND membership IN ('leave', 'ban')
"""


class HeadRecord(NamedTuple):
    """The head of a room; `extremities` is a JSON array of event IDs."""

    extremities: str
    snapshot_id: int
    depth: int
    stream_id: int


class RoomSummaryRecord(NamedTuple):
    """The summary of a room for room lists; the fields are the columns in order."""

    name: str | None = None
    topic: str | None = None
    avatar_url: str | None = None
    canonical_alias: str | None = None
    join_rule: str | None = None
    history_visibility: str | None = None
    guest_access: str | None = None
    encryption: str | None = None
    room_type: str | None = None
    joined_members: int = 0
    invited_members: int = 0
    tombstoned: int = 0


async def insert(tx: Tx, rows: Sequence[tuple[str, str, str, int]]) -> None:
    """Insert rooms (room_id, version, creator, created_ms), in place of rooms from outside."""
    await tx.insert_rows(INSERT_ROOM, rows)


async def insert_outside(tx: Tx, rows: Sequence[tuple[str, str, str, int]]) -> None:
    """Insert rooms that this server is not in; existing rooms are not changed."""
    await tx.insert_rows(INSERT_OUTSIDE_ROOM, rows)


async def versions(tx: Tx, room_ids: Sequence[str]) -> dict[str, str]:
    """Return the versions of those rooms that exist."""
    return {row[0]: row[1] for row in await tx.fetch(VERSIONS, list(room_ids))}


async def head(tx: Tx, room_id: str) -> HeadRecord | None:
    """Return the head of a room; None if the server has no state of it."""
    row = await tx.fetchrow(HEAD, room_id)
    return None if row is None else HeadRecord(*row)


async def set_heads(tx: Tx, rows: Sequence[tuple[str, str, int, int, int, int | None]]) -> None:
    """Insert or replace room heads (room_id, *HeadRecord, sent_id); each room at most once.

    `sent_id` is the last event among the new ones that this server sends to others, if any.
    """
    await tx.insert_rows(SET_HEADS, rows)


async def summary(tx: Tx, room_id: str) -> RoomSummaryRecord | None:
    """Return the summary of a room."""
    row = await tx.fetchrow(SUMMARY, room_id)
    return None if row is None else RoomSummaryRecord(*row)


async def member_counts(tx: Tx, room_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the numbers of joined and of invited members of rooms."""
    rows = await tx.fetch(MEMBER_COUNTS, list(room_ids))
    return {row[0]: (row[1], row[2]) for row in rows}


async def set_summaries(tx: Tx, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert or replace summaries (room_id, *SummaryRecord); each room at most once."""
    await tx.insert_rows(SET_SUMMARIES, rows)


async def set_local_memberships(
    tx: Tx, rows: Sequence[tuple[str, str, str, str, int, str]]
) -> None:
    """Insert or replace (user_id, room_id, membership, event_id, stream_id, sender).

    A new membership makes the room remembered again.
    """
    await tx.insert_rows(SET_LOCAL_MEMBERSHIPS, rows)


async def set_stripped_state(tx: Tx, user_id: str, room_id: str, state: bytes) -> None:
    """Store the stripped state of a room that this server is not in, as a JSON array."""
    await tx.execute(SET_STRIPPED_STATE, user_id, room_id, state)


async def forget(tx: Tx, user_id: str, room_id: str) -> bool:
    """Mark a room as forgotten by a user; return False unless the user has left it."""
    return await tx.execute(FORGET, user_id, room_id) > 0
