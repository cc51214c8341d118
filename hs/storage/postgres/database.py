"""PostgreSQL as a Database: each unit is one asyncio task in the bridge.

- Read units run without BEGIN: each statement is a transaction of its own. Snapshots and long
  reads run in a read-only REPEATABLE READ transaction, writes in a REPEATABLE READ transaction,
  so a write that depends on a row changed meanwhile ends in a serialization failure and is run
  again instead of overwriting the change.
  An idempotent write runs like a read: that saves two of three round trips of a small one.
- A conflict is retried with a fresh transaction, up to CONFLICT_ATTEMPTS times with a random,
  growing delay. A lost connection is retried LOST_ATTEMPTS times: the server rolls back what it
  had not committed. A connection lost while COMMIT was in progress raises CommitUnknown and is
  never retried.
- `PostgresWatchdog` ends units that wait for a server that hangs; they are not retried.
- When the caller is cancelled, the unit may continue for a grace period (none for long reads);
  then its task is cancelled, asyncpg asks the server to cancel the statement, and the pool resets
  the connection before another unit can get it.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final, ParamSpec, TypeVar

import trio

from hs.lib.aio import Bridge
from hs.lib.tally import Tally
from hs.storage.database import (
    CommitUnknown,
    DatabaseConflict,
    DatabaseHung,
    DatabaseLoad,
    DatabaseRefusal,
    DatabaseUnavailable,
    Unit,
)
from hs.storage.dialect import POSTGRES
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.pool import Pool
from hs.storage.postgres.tx import Connection, PostgresTx, translate_error
from hs.storage.postgres.watchdog import PostgresWatchdog

P = ParamSpec("P")
T = TypeVar("T")

# How long a unit may continue after its caller was cancelled.
READ_GRACE_S: Final = 1.0
WRITE_GRACE_S: Final = 30.0
# For how long a refused write counts as a fault; leases are written more often.
REFUSED_S: Final = 10.0

CONFLICT_ATTEMPTS: Final = 15
LOST_ATTEMPTS: Final = 5

AUTOCOMMIT: Final = ""
SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"


@asynccontextmanager
async def open_postgres(
    config: PostgresConfig, bridge: Bridge
) -> AsyncIterator["PostgresDatabase"]:
    """Open a pool of connections for the duration of the context.

    Raises: DatabaseUnavailable, DatabaseError.
    """
    pool = Pool(config)
    watchdog = PostgresWatchdog(pool, config)
    try:
        await bridge.run(pool.open)
    except Exception as error:
        await bridge.run(pool.close)
        if translated := translate_error(error, is_closed=True):
            raise translated from error
        raise
    try:
        await bridge.run(watchdog.start)
        yield PostgresDatabase(bridge, pool)
    finally:
        with trio.CancelScope(shield=True):
            await bridge.run(watchdog.stop)
            await bridge.run(pool.close)


class PostgresDatabase:
    """A Database on a pool in the bridge; created by `open_postgres`."""

    engine: Final = "postgres"
    dialect: Final = POSTGRES

    def __init__(self, bridge: Bridge, pool: Pool) -> None:
        self._bridge = bridge
        self._pool = pool
        # When a write was last refused, and why: the disk is full, the server is a standby.
        self._refusal: tuple[float, str] = (-math.inf, "")
        self._reads, self._snapshots, self._writes = Tally(), Tally(), Tally()

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._bridge.run_with_grace(
            READ_GRACE_S, self._run, self._reads, AUTOCOMMIT, unit, args, kwargs
        )
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._bridge.run_with_grace(
            READ_GRACE_S, self._run, self._snapshots, SNAPSHOT, unit, args, kwargs
        )
        return result

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._bridge.run(self._run, self._snapshots, SNAPSHOT, unit, args, kwargs)
        return result

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._write(WRITE, unit, args, kwargs)
        return result

    async def write_idempotent(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._write(AUTOCOMMIT, unit, args, kwargs)
        return result

    async def _write(
        self, begin: str, unit: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        try:
            return await self._bridge.run_with_grace(
                WRITE_GRACE_S, self._run, self._writes, begin, unit, args, kwargs
            )
        except DatabaseRefusal as error:
            self._refusal = trio.current_time(), str(error)
            raise

    def load(self) -> DatabaseLoad:
        idle, used, waiting = self._pool.load()
        units = {"read": self._reads, "snapshot": self._snapshots, "write": self._writes}
        fault = self._pool.fault
        if fault is None and trio.current_time() - self._refusal[0] < REFUSED_S:
            fault = self._refusal[1]
        return DatabaseLoad(
            idle + used, used, self._pool.max_connections, waiting, units, fault=fault
        )

    # The methods below run in the loop's thread.

    async def _run(
        self,
        tally: Tally,
        begin: str,
        unit: Callable[..., Any],
        args: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        started_at = perf_counter()
        try:
            return await self._run_with_retries(begin, unit, args, kwargs)
        finally:
            tally.add(perf_counter() - started_at)

    async def _run_with_retries(
        self, begin: str, unit: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        conflicts = losses = 0
        while True:
            try:
                return await self._attempt(begin, unit, args, kwargs)
            except DatabaseConflict:
                conflicts += 1
                if conflicts == CONFLICT_ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0, 0.001 * 2 ** min(conflicts, 7)))
            except (CommitUnknown, DatabaseHung, DatabaseRefusal):
                raise
            except DatabaseUnavailable:
                losses += 1
                if losses == LOST_ATTEMPTS:
                    raise
                # The server may be restarting, and the other connections may be lost too.
                await asyncio.sleep(random.uniform(0, 0.02 * 2**losses))

    async def _attempt(
        self, begin: str, unit: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        conn = await self._acquire()
        try:
            tx = PostgresTx(conn, begin)
            result = await unit(tx, *args, **kwargs)
            await tx.commit()
            return result
        except BaseException as error:
            is_closed = conn.is_closed()
            await self._pool.reset(conn)
            translated = translate_error(error, is_closed=is_closed)
            if isinstance(translated, DatabaseRefusal):
                # A new connection may reach another server, after the old one became a standby.
                conn.terminate()
            if translated:
                raise translated from error
            raise
        finally:
            self._pool.release(conn)

    async def _acquire(self) -> Connection:
        try:
            return await self._pool.acquire()
        except Exception as error:
            if translated := translate_error(error, is_closed=True):
                raise translated from error
            raise
