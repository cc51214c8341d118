"""A pool of asyncpg connections that stays usable after failed and cancelled units.

asyncpg's own pool costs a task, a proxy and a round trip per use. Here a connection that was used
without an error is returned as it is. After an error it is rolled back; if that fails or takes
too long, it is closed. So a connection in the pool is never in a transaction.

Race: asyncpg cancels a statement through a second connection. If the request arrives before
the statement has begun, it cancels nothing, and the ROLLBACK would wait for the whole statement.
`reset` therefore repeats the request until the ROLLBACK has finished.

A server that hangs closes no connection. `PostgresWatchdog` finds it out and calls `give_up`:
used connections are terminated, so that their units end, and no unit gets a connection until the
server answers again.
"""

import asyncio
import logging
from typing import Final

import asyncpg

from hs.storage.database import DatabaseHung
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.tx import Connection

RESET_LIMIT_S: Final = 5.0
PREPARE_LIMIT_S: Final = 10.0
CANCEL_RETRY_S: Final = 0.2
CLOSE_LIMIT_S: Final = 5.0

# asyncpg looks an array type up when it first meets it, which costs PostgreSQL more than most
# units do. Preparing this statement on a new connection looks all of them up at once.
ARRAY_TYPES: Final = "SELECT $1::bigint[], $2::bytea[], $3::smallint[], $4::integer[]"
# A process that is stopped in the middle of a transaction must not keep its locks: other processes
# take over what it does. A unit awaits nothing but the database, so this is long.
IDLE_LIMIT: Final = "SET idle_in_transaction_session_timeout = '5s'"
log = logging.getLogger(__name__)


class Pool:
    """A pool of connections of one asyncio loop; its methods run in the loop's thread."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._free = asyncio.Semaphore(config.max_connections)
        self._idle: list[Connection] = []
        # Since when they are in use, by the clock of the loop.
        self._used: dict[Connection, float] = {}
        self._connecting: dict[asyncio.Future[Connection], float] = {}
        self._waiting = 0
        self._fault: str | None = None

    @property
    def max_connections(self) -> int:
        """Maximum number of connections."""
        return self._config.max_connections

    @property
    def fault(self) -> str | None:
        """Why no unit gets a connection; None if they do. May be called from any thread."""
        return self._fault

    def load(self) -> tuple[int, int, int]:
        """Return the numbers of idle connections, used connections and waiting units.

        May be called from any thread.
        """
        return len(self._idle), len(self._used), self._waiting

    async def open(self) -> None:
        """Open the minimum number of connections."""
        for _ in range(max(1, self._config.min_connections)):
            self._idle.append(await self._connect())

    async def acquire(self) -> Connection:
        """Wait for a connection; return it to the pool with `release`."""
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            conn = self._pop_idle() or await self._connect_for_unit()
            if self._fault is not None:
                conn.terminate()
                self._refuse_if_hung()
        except BaseException:
            self._free.release()
            raise
        self._used[conn] = asyncio.get_running_loop().time()
        return conn

    def _refuse_if_hung(self) -> None:
        if self._fault is not None:
            raise DatabaseHung(self._fault)

    async def _connect_for_unit(self) -> Connection:
        self._refuse_if_hung()
        connecting = asyncio.ensure_future(self._connect())
        self._connecting[connecting] = asyncio.get_running_loop().time()
        try:
            return await connecting
        except asyncio.CancelledError:
            self._refuse_if_hung()  # cancelled by `give_up`, not with the unit
            raise
        finally:
            del self._connecting[connecting]

    def used_since(self, moment: float) -> list[Connection]:
        """Return the connections in use since a moment of the loop's clock, or before."""
        return [conn for conn, since in self._used.items() if since <= moment]

    def oldest_use(self, now: float) -> float:
        """Return since when a connection is in use or being opened for a unit; `now` if none is."""
        return min([*self._used.values(), *self._connecting.values()], default=now)

    def is_connecting_since(self, moment: float) -> bool:
        """Return whether a unit has been waiting for a new connection since a moment."""
        return any(since <= moment for since in self._connecting.values())

    def give_up(self, fault: str) -> None:
        """Terminate all connections, and refuse new ones until `resume`."""
        self._fault = fault
        idle, self._idle = self._idle, []
        for conn in [*idle, *self._used]:
            conn.terminate()
        for connecting in self._connecting:
            connecting.cancel()

    def resume(self) -> None:
        """Let units have connections again."""
        self._fault = None

    def _pop_idle(self) -> "Connection | None":
        while self._idle:
            conn = self._idle.pop()
            if not conn.is_closed():
                return conn
        return None

    def release(self, conn: Connection) -> None:
        """Return a connection to the pool; a closed connection is dropped."""
        self._used.pop(conn, None)
        if not conn.is_closed():
            self._idle.append(conn)
        self._free.release()

    async def reset(self, conn: Connection) -> None:
        """Roll back the transaction of a failed or cancelled unit, or close the connection."""
        if conn.is_closed():
            return
        # ROLLBACK waits for the statement that asyncpg may have asked the server to cancel.
        rollback = asyncio.ensure_future(conn.execute("ROLLBACK"))
        try:
            async with asyncio.timeout(RESET_LIMIT_S):
                while not (await asyncio.wait((rollback,), timeout=CANCEL_RETRY_S))[0]:
                    await self._cancel_statement(conn)
            rollback.result()
        except (TimeoutError, asyncio.CancelledError, OSError, asyncpg.PostgresError) as error:
            log.warning("could not reset a database connection, closing it: %r", error)
            rollback.cancel()
            conn.terminate()
            if isinstance(error, asyncio.CancelledError):
                raise
        except asyncpg.InterfaceError:
            conn.terminate()

    async def _cancel_statement(self, conn: Connection) -> None:
        """Ask the server again to cancel the statement of a connection."""
        helper = await self.connect_only()
        try:
            await helper.execute("SELECT pg_cancel_backend($1)", conn.get_server_pid())
        finally:
            await _close(helper)

    async def close(self) -> None:
        """Close all connections; those in use are terminated."""
        idle, self._idle = self._idle, []
        for conn in list(self._used):
            conn.terminate()
        await asyncio.gather(*map(_close, idle))

    async def _connect(self) -> Connection:
        """Open a connection, set a limit, and let it look up the array types."""
        conn = await self.connect_only()
        try:
            async with asyncio.timeout(PREPARE_LIMIT_S):
                await conn.execute(IDLE_LIMIT)
                await conn.prepare(ARRAY_TYPES)
        except BaseException:
            conn.terminate()
            raise
        return conn

    async def connect_only(self) -> Connection:
        """Open a connection that does not belong to the pool."""
        return await asyncpg.connect(**self._config.connect)


async def _close(conn: Connection) -> None:
    try:
        await conn.close(timeout=CLOSE_LIMIT_S)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        conn.terminate()
