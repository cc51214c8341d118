"""To-device messages that wait for other servers."""

from collections.abc import Sequence

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

_STREAM = "outgoing_to_device"

INSERT = InsertRows(
    "outgoing_to_device", "id bigint, destination text, edu bytea, created_ms bigint"
)
OF_DESTINATION = """
SELECT id, edu FROM outgoing_to_device WHERE destination = $1 ORDER BY id LIMIT $2
"""
DESTINATIONS = "SELECT DISTINCT destination FROM outgoing_to_device"
DELETE = sql(lambda d: f"DELETE FROM outgoing_to_device WHERE {d.any_of('id', 1, 'bigint')}")
OLD = "SELECT id FROM outgoing_to_device WHERE created_ms < $1 ORDER BY created_ms LIMIT $2"
EXCESS = """
SELECT id FROM (
    SELECT id, row_number() OVER (PARTITION BY destination ORDER BY id DESC) AS place
    FROM outgoing_to_device
) AS numbered WHERE place > $1 LIMIT $2
"""


async def insert(tx: Tx, edus: Sequence[tuple[str, bytes]], now_ms: int) -> None:
    """Store EDUs (destination, edu) in their order."""
    ids = await tx.next_ids(_STREAM, len(edus))
    rows = [(number, *edu, now_ms) for number, edu in zip(ids, edus, strict=True)]
    await tx.insert_rows(INSERT, rows)


async def list_of_destination(tx: Tx, server: str, limit: int) -> list[tuple[int, bytes]]:
    """List (id, edu) of the first EDUs for a destination."""
    return [(row[0], bytes(row[1])) for row in await tx.fetch(OF_DESTINATION, server, limit)]


async def list_destinations(tx: Tx) -> list[str]:
    """List the destinations for which EDUs wait."""
    return [row[0] for row in await tx.fetch(DESTINATIONS)]


async def delete(tx: Tx, ids: Sequence[int]) -> None:
    """Delete EDUs."""
    await tx.execute(DELETE, list(ids))


async def list_old(tx: Tx, before_ms: int, limit: int) -> list[int]:
    """List the IDs of EDUs stored before a time (ms)."""
    return [row[0] for row in await tx.fetch(OLD, before_ms, limit)]


async def list_excess(tx: Tx, most: int, limit: int) -> list[int]:
    """List the IDs of the oldest EDUs of destinations for which more than `most` wait."""
    return [row[0] for row in await tx.fetch(EXCESS, most, limit)]
