"""PostgreSQL behind the Database Protocol: a unit is one asyncio task in the bridge.

A write unit runs in one REPEATABLE READ transaction, and is run again after a conflict or a
lost connection, but never after a COMMIT whose fate is unknown.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final, ParamSpec, TypeVar

import trio

from hs.lib.aio import Bridge
from hs.lib.tally import Tally
from hs.storage.database import CommitUnknown, DatabaseConflict, DatabaseUnavailable, Load, Unit
from hs.storage.dialect import POSTGRES
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.pool import Pool
from hs.storage.postgres.tx import (
    Connection,
    PostgresTx,
    translate,
)

P = ParamSpec("P")
T = TypeVar("T")

# How long a unit whose caller was cancelled may still work before it is cancelled too.
READ_GRACE_S: Final = 1.0
WRITE_GRACE_S: Final = 30.0

CONFLICT_ATTEMPTS: Final = 15
LOST_ATTEMPTS: Final = 5

AUTOCOMMIT: Final = ""
SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"


@asynccontextmanager
async def open_postgres(
    config: PostgresConfig, bridge: Bridge
) -> AsyncIterator["PostgresDatabase"]:
    """Open a pool of connections, closed at the end.

    Raises: DatabaseUnavailable, DatabaseError.
    """
    pool = Pool(config)
    try:
        await bridge.run(pool.open)
    except Exception as error:
        await bridge.run(pool.close)
        if translated := translate(error, gone=True):
            raise translated from error
        raise
    try:
        yield PostgresDatabase(bridge, pool)
    finally:
        with trio.CancelScope(shield=True):
            await bridge.run(pool.close)


class PostgresDatabase:
    """A pool in the bridge; use `open_postgres`."""

    engine: Final = "postgres"
    dialect: Final = POSTGRES

    def __init__(self, bridge: Bridge, pool: Pool) -> None:
        self._bridge = bridge
        self._pool = pool
        self._units = {AUTOCOMMIT: Tally(), SNAPSHOT: Tally(), WRITE: Tally()}

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._bridge.run_patiently(
            READ_GRACE_S, self._run, AUTOCOMMIT, unit, args, kwargs
        )
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._bridge.run_patiently(
            READ_GRACE_S, self._run, SNAPSHOT, unit, args, kwargs
        )
        return result

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._bridge.run(self._run, SNAPSHOT, unit, args, kwargs)
        return result

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._bridge.run_patiently(
            WRITE_GRACE_S, self._run, WRITE, unit, args, kwargs
        )
        return result

    def load(self) -> Load:
        idle, used, waiting = self._pool.load()
        units = {
            "read": self._units[AUTOCOMMIT],
            "snapshot": self._units[SNAPSHOT],
            "write": self._units[WRITE],
        }
        return Load(idle + used, used, self._pool.max_connections, waiting, units)

    # Below: in the loop's thread.

    async def _run(
        self, begin: str, unit: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        began = perf_counter()
        try:
            return await self._run_patiently(begin, unit, args, kwargs)
        finally:
            self._units[begin].add(perf_counter() - began)

    async def _run_patiently(
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
            except CommitUnknown:
                raise
            except DatabaseUnavailable:
                losses += 1
                if losses == LOST_ATTEMPTS:
                    raise
                # The other connections of the pool are probably gone too.
                await asyncio.sleep(random.uniform(0, 0.02 * 2**losses))

    async def _attempt(
        self, begin: str, unit: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        conn = await self._take()
        try:
            tx = PostgresTx(conn, begin)
            result = await unit(tx, *args, **kwargs)
            await tx.commit()
            return result
        except BaseException as error:
            gone = conn.is_closed()
            await self._pool.mend(conn)
            if translated := translate(error, gone=gone):
                raise translated from error
            raise
        finally:
            self._pool.give_back(conn)

    async def _take(self) -> Connection:
        try:
            return await self._pool.take()
        except Exception as error:
            if translated := translate(error, gone=True):
                raise translated from error
            raise
