"""The user directory and searches in it.

A user is found by users who share a room with them. A user in a room that anyone may join or read,
and of which this server is a member, is found by all.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rooms.stored_pdus import expand_pdu
from hs.storage.rows import InsertRows

PUT = InsertRows(
    "user_directory",
    "user_id text, display_name text, avatar_url text, search_text text, is_local smallint",
    conflict=(
        "ON CONFLICT (user_id) DO UPDATE SET display_name = excluded.display_name, "
        "avatar_url = excluded.avatar_url, search_text = excluded.search_text"
    ),
)
SET_PROGRESS = """
INSERT INTO directory_progress (name, position) VALUES ('members', $1)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
"""
PROGRESS = "SELECT position FROM directory_progress WHERE name = 'members'"
NEWER_MEMBERS = """
SELECT * FROM (
    SELECT * FROM (
        SELECT e.stream_id, e.room_id, e.state_key, e.pdu FROM events e
        WHERE e.stream_id > $1 AND e.type = 'm.room.member' AND e.status = 0
        ORDER BY e.stream_id LIMIT $2
    ) stored UNION ALL SELECT * FROM (
        SELECT p.position, e.room_id, e.state_key, e.pdu FROM placed_outliers p
        JOIN events e ON e.stream_id = p.number
        WHERE p.position > $1 AND e.type = 'm.room.member' AND e.status = 0
        ORDER BY p.position LIMIT $2
    ) placed
) log ORDER BY stream_id LIMIT $2
"""
# Events that came with the state of a room have negative stream IDs.
IMPORTED_MEMBERS = """
SELECT c.state_key, e.pdu FROM current_state c JOIN events e ON e.event_id = c.event_id
WHERE c.room_id = $1 AND c.type = 'm.room.member' AND c.state_key > $2
  AND c.membership = 'join' AND e.stream_id < 0
ORDER BY c.state_key LIMIT $3
"""
UNLISTED = """
SELECT u.user_id FROM users u
WHERE NOT EXISTS (SELECT 1 FROM user_directory d WHERE d.user_id = u.user_id)
ORDER BY u.user_id LIMIT $1
"""
PROFILES = sql(
    lambda d: (
        "SELECT u.user_id, p.field, p.value FROM users u LEFT JOIN profiles p "
        "ON p.user_id = u.user_id AND p.field IN ('displayname', 'avatar_url') "
        f"WHERE {d.any_of('u.user_id', 1, 'text')}"
    )
)
ENTRIES = sql(
    lambda d: (
        "SELECT user_id, display_name, avatar_url, search_text, is_local FROM user_directory "
        f"WHERE {d.any_of('user_id', 1, 'text')}"
    )
)
_TOKENS: Final = 5
# $1 requester, $2 limit, $3 all users, $4 remote users, $5 locked users, $6 local users first,
# $7 the suffix of local user IDs, $8 the prefix of the best matches, $9… words.
SEARCH = f"""
SELECT d.user_id, d.display_name, d.avatar_url
FROM user_directory d LEFT JOIN users u ON u.user_id = d.user_id
WHERE {" AND ".join(f"d.search_text LIKE ${number} ESCAPE '!'" for number in range(9, 9 + _TOKENS))}
  AND (d.is_local = 1 OR $4 = 1)
  AND (u.user_id IS NULL OR (u.is_deactivated = 0 AND (u.is_locked = 0 OR $5 = 1)))
  AND ($3 = 1 OR EXISTS (
    SELECT 1 FROM current_state theirs
    JOIN current_state mine ON mine.room_id = theirs.room_id AND mine.state_key = $1
        AND mine.type = 'm.room.member' AND mine.membership = 'join'
    WHERE theirs.state_key = d.user_id AND theirs.membership = 'join' AND d.user_id <> $1
  ) OR EXISTS (
    SELECT 1 FROM current_state theirs
    JOIN room_summaries s ON s.room_id = theirs.room_id
        AND (s.join_rule = 'public' OR s.history_visibility = 'world_readable')
    WHERE theirs.state_key = d.user_id AND theirs.membership = 'join' AND EXISTS (
        SELECT 1 FROM current_state ours WHERE ours.room_id = theirs.room_id
            AND ours.membership = 'join' AND ours.state_key LIKE $7 ESCAPE '!'
    )
  ))
ORDER BY CASE WHEN d.is_local = $6 THEN 0 ELSE 1 END,
    CASE WHEN d.search_text LIKE $8 ESCAPE '!' OR d.search_text LIKE '@' || $8 ESCAPE '!'
        THEN 0 ELSE 1 END,
    CASE WHEN d.display_name IS NULL THEN 1 ELSE 0 END, d.user_id
LIMIT $2
"""


class DirectoryUser(NamedTuple):
    """A row of the directory; `search_text` is case-folded."""

    user_id: str
    display_name: str | None
    avatar_url: str | None
    search_text: str
    is_local: int


class MemberEvent(NamedTuple):
    """A member event of a room; `stream_id` is later than its own if it was an outlier."""

    stream_id: int
    room_id: str
    user_id: str
    pdu: bytes


class UserSearch(NamedTuple):
    """A search in the directory; `words` are case-folded."""

    requester: str
    words: Sequence[str]
    limit: int
    all_users: bool
    remote_users: bool
    locked_users: bool
    local_first: bool
    local_suffix: str


class FoundUser(NamedTuple):
    """A user found by a search."""

    user_id: str
    display_name: str | None
    avatar_url: str | None


async def put(tx: Tx, users: Sequence[DirectoryUser], position: int | None) -> None:
    """Insert or replace users, each at most once, and store the position read of member events."""
    await tx.insert_rows(PUT, users)
    if position is not None:
        await tx.execute(SET_PROGRESS, position)


async def load_progress(tx: Tx) -> int:
    """Return the position up to which member events are read."""
    position: int | None = await tx.fetchval(PROGRESS)
    return position or 0


async def list_members_after(tx: Tx, after: int, limit: int) -> list[MemberEvent]:
    """List the member events after a stream ID, in order."""
    rows = await tx.fetch(NEWER_MEMBERS, after, limit)
    return [MemberEvent(row[0], row[1], row[2], expand_pdu(bytes(row[3]))) for row in rows]


async def list_imported_members(
    tx: Tx, room_id: str, after: str, limit: int
) -> list[tuple[str, bytes]]:
    """List (user_id, PDU) of joined members that came with the state of a room, by user ID."""
    rows = await tx.fetch(IMPORTED_MEMBERS, room_id, after, limit)
    return [(row[0], expand_pdu(bytes(row[1]))) for row in rows]


async def list_unlisted(tx: Tx, limit: int) -> list[str]:
    """List local users who are not in the directory."""
    return [row[0] for row in await tx.fetch(UNLISTED, limit)]


async def profiles_of(tx: Tx, user_ids: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """Return display names and avatars (JSON values) of those of the users who have accounts."""
    profiles: dict[str, dict[str, bytes]] = {}
    for row in await tx.fetch(PROFILES, list(user_ids)):
        profile = profiles.setdefault(row[0], {})
        if row[1] is not None:
            profile[row[1]] = bytes(row[2])
    return profiles


async def list_entries(tx: Tx, user_ids: Sequence[str]) -> dict[str, DirectoryUser]:
    """Return the entries of those of the users who are listed."""
    rows = await tx.fetch(ENTRIES, list(user_ids))
    return {row[0]: DirectoryUser(*row) for row in rows}


async def search(tx: Tx, query: UserSearch) -> list[FoundUser]:
    """Search users, best matches first; `words` must not be empty."""
    words = [f"%{_escape_like(word)}%" for word in query.words[:_TOKENS]]
    words += ["%"] * (_TOKENS - len(words))
    rows = await tx.fetch(
        SEARCH,
        query.requester,
        query.limit,
        int(query.all_users),
        int(query.remote_users),
        int(query.locked_users),
        1 if query.local_first else -1,
        f"%{_escape_like(query.local_suffix)}",
        f"{_escape_like(query.words[0])}%",
        *words,
    )
    return [FoundUser(*row) for row in rows]


def _escape_like(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
