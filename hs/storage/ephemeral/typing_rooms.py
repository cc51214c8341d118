"""The rooms where somebody types or did lately, as they were a moment ago."""

from collections.abc import Collection

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import Rows

ALL = "SELECT room_id FROM typing_rooms"
ADD = Rows("typing_rooms", "room_id text", conflict="ON CONFLICT (room_id) DO NOTHING")
REMOVE = sql(lambda d: f"DELETE FROM typing_rooms WHERE {d.any_of('room_id', 1, 'text')}")


async def every(tx: Tx) -> list[str]:
    """List them."""
    return [row[0] for row in await tx.fetch(ALL)]


async def change(tx: Tx, added: Collection[str], removed: Collection[str]) -> None:
    """Note where somebody began to type, and where nobody does for long."""
    if added:
        await tx.insert_rows(ADD, [(room_id,) for room_id in added])
    if removed:
        await tx.execute(REMOVE, list(removed))
