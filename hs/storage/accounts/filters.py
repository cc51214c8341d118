"""Filters stored by clients; a filter never changes."""

from hs.storage.database import Tx

FIND = "SELECT filter_id FROM filters WHERE user_id = $1 AND digest = $2"
INSERT = """
INSERT INTO filters (user_id, filter_id, digest, content) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, digest) DO NOTHING
"""
DELETE_OLDEST = """
DELETE FROM filters WHERE user_id = $1 AND filter_id <= (
    SELECT filter_id FROM filters WHERE user_id = $1 ORDER BY filter_id DESC LIMIT 1 OFFSET $2
)
"""
GET = "SELECT content FROM filters WHERE user_id = $1 AND filter_id = $2"


async def add(tx: Tx, user_id: str, digest: str, content: bytes, *, kept: int) -> int:
    """Store a filter, or find an equal one of the user; return its ID.

    The user's oldest filters are deleted, except the latest `kept`.
    """
    filter_id = await tx.fetchval(FIND, user_id, digest)
    if filter_id is None:
        (new_id,) = await tx.next_ids("filters", 1)
        await tx.execute(INSERT, user_id, new_id, digest, content)
        await tx.execute(DELETE_OLDEST, user_id, kept)
        filter_id = await tx.fetchval(FIND, user_id, digest)
    return int(filter_id)


async def get(tx: Tx, user_id: str, filter_id: int) -> bytes | None:
    """Return the content of a filter (JSON)."""
    content = await tx.fetchval(GET, user_id, filter_id)
    return None if content is None else bytes(content)
