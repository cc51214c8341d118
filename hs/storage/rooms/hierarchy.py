"""Reads for space hierarchies and room lists."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

SUMMARIES = sql(
    lambda d: (
        "SELECT r.room_id, r.version, r.is_public, s.name, s.topic, s.avatar_url, "
        "s.canonical_alias, s.join_rule, s.history_visibility, s.guest_access, s.encryption, "
        "s.room_type, s.joined_members, s.tombstoned "
        "FROM rooms r JOIN room_summaries s ON s.room_id = r.room_id "
        f"WHERE {d.any_of('r.room_id', 1, 'text')}"
    )
)
ROOM_OF_ALIAS = "SELECT room_id FROM room_aliases WHERE alias = $1"
IS_PUBLIC = "SELECT is_public FROM rooms WHERE room_id = $1"


class HierarchyRoomRecord(NamedTuple):
    """A room as room lists show it."""

    room_id: str
    version: str
    is_public: int
    name: str | None
    topic: str | None
    avatar_url: str | None
    canonical_alias: str | None
    join_rule: str | None
    history_visibility: str | None
    guest_access: str | None
    encryption: str | None
    room_type: str | None
    joined_members: int
    tombstoned: int


async def load_summaries(tx: Tx, room_ids: Sequence[str]) -> dict[str, HierarchyRoomRecord]:
    """Return the summaries of those rooms that exist."""
    rows = await tx.fetch(SUMMARIES, list(room_ids))
    return {row[0]: HierarchyRoomRecord(*row) for row in rows}


async def room_of_alias(tx: Tx, alias: str) -> str | None:
    """Return the room that a local alias points to."""
    room_id: str | None = await tx.fetchval(ROOM_OF_ALIAS, alias)
    return room_id


async def is_public(tx: Tx, room_id: str) -> bool:
    """Return whether a room is published in the directory."""
    return bool(await tx.fetchval(IS_PUBLIC, room_id))
