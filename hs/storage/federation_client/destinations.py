"""The servers that did not respond to requests."""

from typing import NamedTuple

from hs.storage.database import Row, Tx

_COLUMNS = (
    "SELECT server, failing_since_ms, retry_ms, interval_ms, is_limited, failures FROM destinations"
)
LIST_FAILING = _COLUMNS
GET = f"{_COLUMNS} WHERE server = $1"
SAVE = (
    "INSERT INTO destinations (server, failing_since_ms, retry_ms, interval_ms, is_limited, "
    "failures) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (server) DO UPDATE SET "
    "retry_ms = excluded.retry_ms, interval_ms = excluded.interval_ms, "
    "is_limited = excluded.is_limited, failures = excluded.failures"
)
LIST_SHORTEST = "SELECT server FROM destinations ORDER BY interval_ms, retry_ms LIMIT $1"
DELETE = "DELETE FROM destinations WHERE server = $1"


class FailingServer(NamedTuple):
    """A row of `destinations`; times in milliseconds.

    A server that `is_limited` responds, and wants no requests until `retry_ms`. `failures` is the
    number of attempts since it responded for the last time.
    """

    server: str
    failing_since_ms: int
    retry_ms: int
    interval_ms: int
    is_limited: bool = False
    failures: int = 0


async def list_failing(tx: Tx) -> list[FailingServer]:
    """List all servers that fail."""
    return [_failing(row) for row in await tx.fetch(LIST_FAILING)]


async def get(tx: Tx, server: str) -> FailingServer | None:
    """Return the row of a server, if it fails."""
    row = await tx.fetchrow(GET, server)
    return None if row is None else _failing(row)


async def save(tx: Tx, failing: FailingServer) -> None:
    """Insert or change the row of a server."""
    await tx.execute(SAVE, *failing[:4], int(failing.is_limited), failing.failures)


async def list_shortest(tx: Tx, limit: int) -> list[str]:
    """List servers of those that have failed for the shortest time."""
    return [row[0] for row in await tx.fetch(LIST_SHORTEST, limit)]


async def delete(tx: Tx, server: str) -> None:
    """Delete the row of a server."""
    await tx.execute(DELETE, server)


def _failing(row: Row) -> FailingServer:
    return FailingServer(row[0], row[1], row[2], row[3], is_limited=bool(row[4]), failures=row[5])
