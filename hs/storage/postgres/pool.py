"""A pool of asyncpg connections that a cancelled or failed unit cannot spoil.

asyncpg's own pool spends a task, a proxy and a round trip on each use; here a connection is
given back as it is, and only after a failure is it mended, or thrown away.
"""

import asyncio
import logging
from typing import Final

import asyncpg

from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.tx import Connection

MEND_LIMIT_S: Final = 5.0
CANCEL_AGAIN_S: Final = 0.2
CLOSE_LIMIT_S: Final = 5.0

# asyncpg looks a type up when it first meets it, which costs PostgreSQL more than most units do.
LISTS: Final = "SELECT $1::bigint[], $2::bytea[], $3::smallint[], $4::integer[]"
log = logging.getLogger(__name__)


class Pool:
    """Connections of one loop; all methods run in its thread."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._free = asyncio.Semaphore(config.max_connections)
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._waiting = 0

    @property
    def max_connections(self) -> int:
        """How many there may be."""
        return self._config.max_connections

    def load(self) -> tuple[int, int, int]:
        """Give how many are idle, how many in use, and how many units wait; in any thread."""
        return len(self._idle), len(self._used), self._waiting

    async def open(self) -> None:
        """Connect the least number of connections."""
        for _ in range(max(1, self._config.min_connections)):
            self._idle.append(await self._connect())

    async def take(self) -> Connection:
        """Wait for a connection; give it back with `give_back`."""
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            conn = self._idle_one() or await self._connect()
        except BaseException:
            self._free.release()
            raise
        self._used.add(conn)
        return conn

    def _idle_one(self) -> "Connection | None":
        while self._idle:
            conn = self._idle.pop()
            if not conn.is_closed():
                return conn
        return None

    def give_back(self, conn: Connection) -> None:
        """Let others have the connection; a closed one is forgotten."""
        self._used.discard(conn)
        if not conn.is_closed():
            self._idle.append(conn)
        self._free.release()

    async def mend(self, conn: Connection) -> None:
        """End the transaction of a failed or cancelled unit, or close the connection."""
        if conn.is_closed():
            return
        # Waits for the statement that asyncpg may have asked the server to cancel.
        rollback = asyncio.ensure_future(conn.execute("ROLLBACK"))
        try:
            async with asyncio.timeout(MEND_LIMIT_S):
                while not (await asyncio.wait((rollback,), timeout=CANCEL_AGAIN_S))[0]:
                    await self._cancel_again(conn)
            rollback.result()
        except (TimeoutError, asyncio.CancelledError, OSError, asyncpg.PostgresError) as error:
            log.warning("a database connection could not be mended: %r", error)
            rollback.cancel()
            conn.terminate()
            if isinstance(error, asyncio.CancelledError):
                raise
        except asyncpg.InterfaceError:
            conn.terminate()

    async def _cancel_again(self, conn: Connection) -> None:
        """Ask once more: a request that came before its statement had begun stopped nothing."""
        other = await self._connect_only()
        try:
            await other.execute("SELECT pg_cancel_backend($1)", conn.get_server_pid())
        finally:
            await _close(other)

    async def close(self) -> None:
        """Close every connection, the used ones by force."""
        idle, self._idle = self._idle, []
        for conn in list(self._used):
            conn.terminate()
        await asyncio.gather(*map(_close, idle))

    async def _connect(self) -> Connection:
        """Connect, and learn the types of lists, all by one question."""
        conn = await self._connect_only()
        try:
            await conn.prepare(LISTS)
        except BaseException:
            conn.terminate()
            raise
        return conn

    async def _connect_only(self) -> Connection:
        return await asyncpg.connect(**self._config.connect)


async def _close(conn: Connection) -> None:
    try:
        await conn.close(timeout=CLOSE_LIMIT_S)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        conn.terminate()
