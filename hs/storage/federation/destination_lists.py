"""Lists of the servers that this one federates with, for administrators."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Row, Tx

ORDERS: Final = {
    "destination": "server",
    "retry_last_ts": "failed_ms",
    "retry_interval": "interval_ms",
    "failure_ts": "since_ms",
    "last_successful_stream_ordering": "sent_id",
}
"""The names of the orders, and the columns that they mean."""

_KNOWN: Final = """
SELECT server FROM room_servers WHERE joined_members > 0 AND server <> $1
UNION SELECT server FROM destinations UNION SELECT server FROM behind_destinations
"""
_DESTINATIONS: Final = f"""
SELECT k.server AS server, coalesce(d.retry_ms - d.interval_ms, 0) AS failed_ms,
       coalesce(d.interval_ms, 0) AS interval_ms, d.failing_since_ms AS since_ms,
       b.events_after AS sent_id
FROM ({_KNOWN}) k LEFT JOIN destinations d ON d.server = k.server
LEFT JOIN behind_destinations b ON b.server = k.server
"""
COUNT: Final = f"SELECT count(*) FROM ({_KNOWN}) k"
GET: Final = f"{_DESTINATIONS} WHERE k.server = $2"
# NULL has no place in the order of both engines.
LISTS: Final = {
    (order, is_reversed): f"""
SELECT server, failed_ms, interval_ms, since_ms, sent_id FROM ({_DESTINATIONS}) l
ORDER BY {"server" if column == "server" else f"coalesce({column}, 0)"} {direction},
         server {direction}
LIMIT $2 OFFSET $3
"""
    for order, column in ORDERS.items()
    for is_reversed, direction in ((False, "ASC"), (True, "DESC"))
}
_SHARED: Final = """
FROM room_servers theirs
JOIN room_servers ours ON ours.room_id = theirs.room_id AND ours.server = $2
WHERE theirs.server = $1 AND theirs.joined_members > 0 AND ours.joined_members > 0
"""
COUNT_ROOMS: Final = f"SELECT count(*) {_SHARED}"
ROOMS: Final = {
    is_reversed: f"""
SELECT theirs.room_id, CASE WHEN b.events_after < h.sent_id THEN b.events_after ELSE h.sent_id END
{
        _SHARED.replace(
            "WHERE",
            '''LEFT JOIN room_heads h ON h.room_id = theirs.room_id
LEFT JOIN behind_destinations b ON b.server = theirs.server
WHERE''',
        )
    }
ORDER BY theirs.room_id {direction} LIMIT $3 OFFSET $4
"""
    for is_reversed, direction in ((False, "ASC"), (True, "DESC"))
}


class DestinationRecord(NamedTuple):
    """A server, and whether requests to it fail; `sent_id` is set if it is behind."""

    server: str
    failed_ms: int
    interval_ms: int
    since_ms: int | None
    sent_id: int | None


class Page(NamedTuple):
    """A part of a list."""

    start: int
    limit: int
    is_reversed: bool = False


async def get(tx: Tx, own_server: str, server: str) -> DestinationRecord | None:
    """Return a server that this one federates with."""
    row = await tx.fetchrow(GET, own_server, server)
    return None if row is None else _destination(row)


async def list_destinations(
    tx: Tx, own_server: str, order: str, page: Page
) -> tuple[list[DestinationRecord], int]:
    """Return a page of all servers, in one of ORDERS, and their number."""
    statement = LISTS[order, page.is_reversed]
    rows = await tx.fetch(statement, own_server, page.limit, page.start)
    total: int = await tx.fetchval(COUNT, own_server)
    return [_destination(row) for row in rows], total


async def list_rooms(
    tx: Tx, server: str, own_server: str, page: Page
) -> tuple[Sequence[tuple[str, int]], int]:
    """Return a page of the rooms shared with a server, with what it has got, and their number."""
    rows = await tx.fetch(ROOMS[page.is_reversed], server, own_server, page.limit, page.start)
    total: int = await tx.fetchval(COUNT_ROOMS, server, own_server)
    return [(row[0], row[1] or 0) for row in rows], total


def _destination(row: Row) -> DestinationRecord:
    return DestinationRecord(row[0], row[1], row[2], row[3], row[4])
