"""SQLite in memory, called inline on the trio thread: the database of deterministic tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, ParamSpec, TypeVar

import trio

from hs.storage.database import Load, Unit
from hs.storage.dialect import SQLITE
from hs.storage.sqlite.tx import SqliteConnection, SqliteTx, connect, drive, read_once, write_group

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def open_inline() -> AsyncIterator["InlineDatabase"]:
    """Open an empty database in memory; every process of a simulated cluster may share it."""
    database = InlineDatabase(connect(":memory:"))
    try:
        yield database
    finally:
        database.close()


class InlineDatabase:
    """Runs each unit at once, after a checkpoint, in the order trio schedules the callers."""

    engine: Final = "sqlite"
    dialect: Final = SQLITE

    def __init__(self, conn: SqliteConnection) -> None:
        self._conn = conn

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await trio.lowlevel.checkpoint()
        result: T = read_once(self._conn, _call(unit, args, kwargs))
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.read(unit, *args, **kwargs)

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.read(unit, *args, **kwargs)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await trio.lowlevel.checkpoint()
        (answer,) = write_group(self._conn, [_call(unit, args, kwargs)])
        result: T = answer.unwrap()
        return result

    def load(self) -> Load:
        return Load(1, 0, 1, 0, {})

    def close(self) -> None:
        """Forget everything."""
        self._conn.close()


def _call(
    unit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[SqliteTx], Any]:
    return lambda tx: drive(unit(tx, *args, **kwargs))
