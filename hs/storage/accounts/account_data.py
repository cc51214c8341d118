"""Account data: JSON that clients store for the account or for a room."""

from typing import NamedTuple

from hs.storage.database import Tx

GLOBAL = ""
# The content of deleted account data, which is kept so that clients learn of the deletion.
DELETED = b""


class AccountDataRecord(NamedTuple):
    """One entry of account data; `room_id` is "" for global data, `content` is JSON."""

    room_id: str
    type: str
    content: bytes
    stream_id: int


PUT = """
INSERT INTO account_data (user_id, room_id, type, content, stream_id) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_id, room_id, type)
DO UPDATE SET content = excluded.content, stream_id = excluded.stream_id
"""
GET = "SELECT content FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3"
ALL = "SELECT room_id, type, content, stream_id FROM account_data WHERE user_id = $1"
OF_TYPE = "SELECT user_id, content FROM account_data WHERE room_id = '' AND type = $1"
DELETE_ALL = "DELETE FROM account_data WHERE user_id = $1"


async def put(
    tx: Tx, user_id: str, room_id: str, type_: str, content: bytes, stream_id: int
) -> None:
    """Insert or replace an entry."""
    await tx.execute(PUT, user_id, room_id, type_, content, stream_id)


async def get(tx: Tx, user_id: str, room_id: str, type_: str) -> bytes | None:
    """Return the content of an entry; None if it does not exist or was deleted."""
    content = await tx.fetchval(GET, user_id, room_id, type_)
    return bytes(content) if content else None


async def list_all(tx: Tx, user_id: str) -> list[AccountDataRecord]:
    """List all entries of a user, including deleted ones."""
    rows = await tx.fetch(ALL, user_id)
    return [AccountDataRecord(row[0], row[1], bytes(row[2]), row[3]) for row in rows]


async def delete_all(tx: Tx, user_id: str) -> None:
    """Delete all entries of a user."""
    await tx.execute(DELETE_ALL, user_id)


async def list_by_type(tx: Tx, type_: str) -> list[tuple[str, bytes]]:
    """List (user ID, content) of global account data of one type for all users."""
    return [(row[0], bytes(row[1])) for row in await tx.fetch(OF_TYPE, type_)]
