"""Units of work on one asyncpg connection, and asyncpg's errors in our words."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import asyncpg

from hs.storage.database import (
    ConstraintViolation,
    DatabaseConflict,
    DatabaseError,
    DatabaseTimeout,
    DatabaseUnavailable,
    ForeignViolation,
    Row,
    UniqueViolation,
)
from hs.storage.dialect import POSTGRES, Query, Statement
from hs.storage.rows import Batch, Rows, RowValues, UpdateRows, as_lists, together

# A string: the class takes a parameter in its type stubs only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NEXT_IDS: Final = "SELECT nextval($1::text::regclass) FROM generate_series(1, $2::bigint)"

_CONNECTION_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)


class PostgresTx:
    """The Tx of PostgreSQL.

    Batches of rows wait for the next statement that is not one of them, or for `flush`: all that
    wait then go in one statement, since every one costs a round trip. Batches for one table keep
    their order; a fault of theirs is told when they go.
    """

    __slots__ = ("_batches", "_conn", "_tables")

    dialect: Final = POSTGRES

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._batches: list[tuple[Batch, list[tuple[Any, ...]]]] = []
        self._tables: set[str] = set()

    async def flush(self) -> None:
        """Send the batches that wait."""
        if self._batches:
            await self._send()

    async def _send(self) -> int:
        """Send the batches that wait; give how many rows the last one touched."""
        waiting, self._batches = self._batches, []
        self._tables.clear()
        text = together(tuple(batch for batch, _ in waiting))
        columns = (column for _, columns in waiting for column in columns)
        return _touched(await self._conn.execute(text, *columns))

    async def fetch(self, query: Query, *args: Any) -> Sequence[Row]:
        await self.flush()
        return await self._conn.fetch(_text(query), *args)

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        await self.flush()
        return await self._conn.fetchrow(_text(query), *args)

    async def fetchval(self, query: Query, *args: Any) -> Any:
        await self.flush()
        return await self._conn.fetchval(_text(query), *args)

    async def execute(self, query: Query, *args: Any) -> int:
        await self.flush()
        return _touched(await self._conn.execute(_text(query), *args))

    async def executemany(self, query: Query, rows: Sequence[RowValues]) -> None:
        if rows:
            await self.flush()
            await self._conn.executemany(_text(query), rows)

    async def insert_rows(self, insert: Rows, rows: Sequence[RowValues]) -> None:
        await self._add(insert, rows)

    async def update_rows(self, update: UpdateRows, rows: Sequence[RowValues]) -> None:
        await self._add(update, rows)

    async def update_row(self, update: UpdateRows, row: RowValues) -> bool:
        await self._add(update, [row])
        return await self._send() == 1

    async def _add(self, batch: Batch, rows: Sequence[RowValues]) -> None:
        if not rows:
            return
        if batch.table in self._tables:
            # Within one statement none would see what another has done.
            await self.flush()
        self._tables.add(batch.table)
        self._batches.append((batch, as_lists(batch, rows)))

    async def next_ids(self, stream: str, count: int) -> list[int]:
        # What waits has nothing to do with it.
        rows = await self._conn.fetch(NEXT_IDS, f"{stream}_ids", count)
        return [row[0] for row in rows]


def translate(error: BaseException, *, gone: bool) -> DatabaseError | None:
    """Say asyncpg's error in the words of `hs.storage.database`; None for what is not its own.

    `gone` tells whether there is no connection (any more).
    """
    match error:
        case asyncpg.UniqueViolationError():
            return UniqueViolation(str(error), error.constraint_name or "")
        case asyncpg.ForeignKeyViolationError():
            return ForeignViolation(str(error), error.constraint_name or "")
        case asyncpg.IntegrityConstraintViolationError():
            return ConstraintViolation(str(error), error.constraint_name or "")
        case asyncpg.SerializationError() | asyncpg.DeadlockDetectedError():
            return DatabaseConflict(str(error))
        case asyncpg.QueryCanceledError():
            return DatabaseTimeout(str(error))
        case TimeoutError() if not gone:
            return DatabaseTimeout(str(error))
        case _ if isinstance(error, _CONNECTION_LOST):
            return DatabaseUnavailable(f"PostgreSQL: {_cause(error)}")
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            # A wrong argument looks the same as the use of a connection just closed.
            return (
                DatabaseUnavailable(f"PostgreSQL: {error}") if gone else DatabaseError(str(error))
            )
        case asyncpg.PostgresError():
            return DatabaseError(f"{type(error).__name__}: {error}")
        case _:
            return None


def _cause(error: BaseException) -> str:
    """Say in words what the system says by a number, or by the class of an error alone."""
    if isinstance(error, TimeoutError) and not str(error):
        return "it does not answer in time"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _touched(status: str) -> int:
    """Read how many rows a statement touched: "UPDATE 3", "INSERT 0 1" or "CREATE TABLE"."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


def _text(query: Query) -> str:
    return query.postgres if isinstance(query, Statement) else query
