"""The rooms with users typing now or lately.

After a restart, clients are told that nobody types in these rooms any more.
"""

from collections.abc import Collection

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

ALL = "SELECT room_id FROM typing_rooms"
ADD = InsertRows("typing_rooms", "room_id text", conflict="ON CONFLICT (room_id) DO NOTHING")
REMOVE = sql(lambda d: f"DELETE FROM typing_rooms WHERE {d.any_of('room_id', 1, 'text')}")


async def list_all(tx: Tx) -> list[str]:
    """List all stored rooms."""
    return [row[0] for row in await tx.fetch(ALL)]


async def update(tx: Tx, added: Collection[str], removed: Collection[str]) -> None:
    """Add rooms in which users started to type, and remove rooms where nobody has for a while."""
    if added:
        await tx.insert_rows(ADD, [(room_id,) for room_id in added])
    if removed:
        await tx.execute(REMOVE, list(removed))
