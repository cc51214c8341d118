"""What must always be true of the rows of the database; read by `hs doctor`, never written.

Each function reads little: by primary keys, or a bounded sample. The caller sets a time limit.
"""

from typing import Final

import attrs

from hs.core.stream_def import StreamKind, StreamWriters
from hs.core.streams import CATALOGUE
from hs.storage import stream_log
from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.migrate import TABLE_EXISTS

SAMPLE: Final = 500
# The newest row of a stream, for tables whose primary key it is.
NEWEST: Final = {
    "events": "SELECT max(stream_id) FROM events",
    "device_lists": "SELECT max(stream_id) FROM device_list_changes",
}
LAST_ID_SQLITE: Final = sql(
    lambda d: (
        "SELECT last_id FROM stream_ids WHERE stream = $1"
        if d.engine == "sqlite"
        else "SELECT NULL WHERE $1 = ''"
    )
)
ROOMS_WITHOUT_CREATION: Final = """
SELECT sample.room_id FROM (SELECT room_id FROM room_heads ORDER BY room_id LIMIT $1) AS sample
WHERE NOT EXISTS (
    SELECT 1 FROM current_state
    WHERE current_state.room_id = sample.room_id AND type = 'm.room.create' AND state_key = ''
)
"""
ROOMS: Final = "SELECT count(*) FROM (SELECT 1 FROM room_heads LIMIT $1) AS sample"
LEASES: Final = "SELECT name, holder, expires_ms FROM leases WHERE holder <> '' ORDER BY name"


@attrs.frozen
class HeldLease:
    """A lease with a holder, expired or not."""

    name: str
    holder: str
    expires_ms: int


async def rows_beyond_positions(tx: Tx) -> list[str]:
    """Return the streams whose tables have rows beyond the position of every writer."""
    # The rows first: a commit in between raises the position, not the number of the row.
    newest = {stream: await tx.fetchval(statement) for stream, statement in NEWEST.items()}
    last = _last_positions(await stream_log.list_positions(tx))
    return [stream for stream, row in newest.items() if (row or 0) > last.get(stream, 0)]


async def ids_behind_positions(tx: Tx) -> list[str]:
    """Return the streams that would give the numbers of stored rows to new ones."""
    last = _last_positions(await stream_log.list_positions(tx))
    behind = []
    for stream in CATALOGUE:
        is_numbered = stream.kind is StreamKind.TABLE and stream.writers is not StreamWriters.ANY
        position = last.get(stream.name, 0)
        if is_numbered and position and await _last_id(tx, stream.name) < position:
            behind.append(stream.name)
    return behind


async def rooms_without_creation(tx: Tx) -> tuple[int, list[str]]:
    """Return the size of a sample of rooms, and those whose state has no create event."""
    rows = await tx.fetch(ROOMS_WITHOUT_CREATION, SAMPLE)
    return await tx.fetchval(ROOMS, SAMPLE), [row[0] for row in rows]


async def held_leases(tx: Tx) -> list[HeldLease]:
    """Return the leases that were not given back."""
    return [HeldLease(row[0], row[1], row[2]) for row in await tx.fetch(LEASES)]


def _last_positions(positions: list[tuple[str, str, int]]) -> dict[str, int]:
    last: dict[str, int] = {}
    for stream, _, position in positions:
        last[stream] = max(position, last.get(stream, 0))
    return last


async def _last_id(tx: Tx, stream: str) -> int:
    """Return the last ID that a stream allocated. `stream` is a name of the catalogue."""
    if tx.dialect.engine == "sqlite":
        last: int | None = await tx.fetchval(LAST_ID_SQLITE, stream)
    elif await tx.fetchval(TABLE_EXISTS, f"{stream}_ids"):
        last = await tx.fetchval(f"SELECT last_value FROM {stream}_ids")
    else:
        last = None
    return 0 if last is None else last
