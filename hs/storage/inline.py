"""An in-memory SQLite database that runs inline on the trio thread; for deterministic tests.

Every unit runs from start to end between two checkpoints, so units never overlap, and their order
is the order in which trio schedules the callers. `read` is therefore always a snapshot.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, ParamSpec, TypeVar

import trio

from hs.storage.database import DatabaseLoad, Unit
from hs.storage.dialect import SQLITE
from hs.storage.sqlite.tx import (
    SqliteConnection,
    SqliteTx,
    connect,
    run_read,
    run_unit,
    write_group,
)

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def open_inline() -> AsyncIterator["InlineDatabase"]:
    """Open an empty in-memory database, which all processes of a simulated cluster may share."""
    database = InlineDatabase(connect(":memory:"))
    try:
        yield database
    finally:
        database.close()


class InlineDatabase:
    """A Database that runs each unit on the calling task, right after a checkpoint."""

    engine: Final = "sqlite"
    dialect: Final = SQLITE

    def __init__(self, conn: SqliteConnection) -> None:
        self._conn = conn

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await trio.lowlevel.checkpoint()
        result: T = run_read(self._conn, _call(unit, args, kwargs))
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.read(unit, *args, **kwargs)

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.read(unit, *args, **kwargs)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await trio.lowlevel.checkpoint()
        (unit_outcome,) = write_group(self._conn, [_call(unit, args, kwargs)])
        result: T = unit_outcome.unwrap()
        return result

    async def write_idempotent(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.write(unit, *args, **kwargs)

    def load(self) -> DatabaseLoad:
        return DatabaseLoad(1, 0, 1, 0, {})

    def close(self) -> None:
        """Close the connection, which discards the database."""
        self._conn.close()


def _call(
    unit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[SqliteTx], Any]:
    return lambda tx: run_unit(unit(tx, *args, **kwargs))
