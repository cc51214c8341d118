"""Reads of memberships: the rooms of local users, and the members of rooms."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

OF_USER = """
SELECT room_id, membership, event_id, stream_id, sender, forgotten
FROM local_memberships WHERE user_id = $1
"""
OF_USER_IN_ROOM = f"{OF_USER.rstrip()} AND room_id = $2"
JOINED = "SELECT room_id FROM local_memberships WHERE user_id = $1 AND membership = 'join'"
JOIN_EVENT = """
SELECT event_id FROM local_memberships
WHERE room_id = $1 AND user_id = $2 AND membership = 'join'
"""
PRESENT = sql(
    lambda d: (
        "SELECT room_id, state_key, membership, stream_id FROM current_state "
        f"WHERE {d.any_of('room_id', 1, 'text')} AND membership IN ('join', 'invite') "
        "ORDER BY stream_id"
    )
)
OF_MEMBERS = sql(
    lambda d: (
        "SELECT state_key, membership FROM current_state WHERE room_id = $1 "
        f"AND type = 'm.room.member' AND {d.any_of('state_key', 2, 'text')}"
    )
)
JOINED_AMONG = sql(
    lambda d: (
        "SELECT DISTINCT state_key FROM current_state "
        f"WHERE membership = 'join' AND {d.any_of('state_key', 1, 'text')}"
    )
)
MEMBER_EVENTS = """
SELECT stream_id, membership FROM current_state WHERE room_id = $1 AND type = 'm.room.member'
"""
FORMER = """
SELECT state_key FROM current_state
WHERE room_id = $1 AND membership IN ('leave', 'ban') AND state_key <> $2
ORDER BY stream_id LIMIT $3
"""
OF_SERVER = """
SELECT state_key FROM current_state
WHERE room_id = $1 AND membership IS NOT NULL
  AND substr(state_key, length(state_key) - length($2) + 1) = $2
ORDER BY stream_id LIMIT $3
"""
SHARED = """
SELECT 1 FROM current_state mine JOIN current_state theirs ON theirs.room_id = mine.room_id
WHERE mine.state_key = $1 AND mine.membership = 'join'
  AND theirs.state_key = $2 AND theirs.membership = 'join' LIMIT 1
"""


class LocalMembershipRecord(NamedTuple):
    """A row of `local_memberships`."""

    room_id: str
    membership: str
    event_id: str
    stream_id: int
    sender: str
    forgotten: int


class PresentMemberRecord(NamedTuple):
    """A joined or invited member."""

    room_id: str
    user_id: str
    membership: str
    stream_id: int


async def list_of_user(tx: Tx, user_id: str) -> list[LocalMembershipRecord]:
    """List the memberships of a local user in all rooms."""
    return [LocalMembershipRecord(*row) for row in await tx.fetch(OF_USER, user_id)]


async def find_of_user(tx: Tx, room_id: str, user_id: str) -> LocalMembershipRecord | None:
    """Return the membership of a local user in a room."""
    row = await tx.fetchrow(OF_USER_IN_ROOM, user_id, room_id)
    return None if row is None else LocalMembershipRecord(*row)


async def joined_rooms(tx: Tx, user_id: str) -> list[str]:
    """List the rooms that a local user is joined to."""
    return [row[0] for row in await tx.fetch(JOINED, user_id)]


async def join_event(tx: Tx, room_id: str, user_id: str) -> str | None:
    """Return the join event of a local user in a room; None if the user is not joined."""
    event_id: str | None = await tx.fetchval(JOIN_EVENT, room_id, user_id)
    return event_id


async def list_present_members(tx: Tx, room_ids: Sequence[str]) -> list[PresentMemberRecord]:
    """List the joined and invited members of rooms, earliest first."""
    return [PresentMemberRecord(*row) for row in await tx.fetch(PRESENT, list(room_ids))]


async def memberships_of(tx: Tx, room_id: str, user_ids: Sequence[str]) -> dict[str, str]:
    """Return the memberships of those users that the current state of a room names."""
    rows = await tx.fetch(OF_MEMBERS, room_id, list(user_ids))
    return {row[0]: row[1] for row in rows if row[1] is not None}


async def joined_among(tx: Tx, user_ids: Sequence[str]) -> set[str]:
    """Return those of the users who are joined to any room that this server knows."""
    if not user_ids:
        return set()
    return {row[0] for row in await tx.fetch(JOINED_AMONG, list(user_ids))}


async def list_member_events(tx: Tx, room_id: str) -> list[tuple[int, str | None]]:
    """List (stream_id, membership) of the member events in the current state of a room."""
    return [(row[0], row[1]) for row in await tx.fetch(MEMBER_EVENTS, room_id)]


async def list_former_members(tx: Tx, room_id: str, except_user: str, limit: int) -> list[str]:
    """List users who left a room or were banned, except for one user, earliest first."""
    return [row[0] for row in await tx.fetch(FORMER, room_id, except_user, limit)]


async def list_of_server(tx: Tx, room_id: str, suffix: str, limit: int) -> list[str]:
    """List users whose ID ends with `suffix` and who were ever in a room, earliest change first."""
    return [row[0] for row in await tx.fetch(OF_SERVER, room_id, suffix, limit)]


async def share_room(tx: Tx, user_id: str, other_user_id: str) -> bool:
    """Return whether two users are joined to a common room."""
    return await tx.fetchval(SHARED, user_id, other_user_id) is not None
