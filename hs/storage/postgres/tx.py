"""Units of work on one asyncpg connection, and asyncpg's errors in our words."""

from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeAlias

import asyncpg

from hs.storage.database import (
    CommitUnknown,
    ConstraintViolation,
    DatabaseConflict,
    DatabaseError,
    DatabaseTimeout,
    DatabaseUnavailable,
    ForeignViolation,
    LateRows,
    Row,
    RowMissing,
    UniqueViolation,
)
from hs.storage.dialect import POSTGRES, Query, Statement
from hs.storage.rows import Batch, Change, Rows, RowValues, UpdateRows, as_lists, together

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

    What need not be known at once waits for the next statement, or for the unit's end: it then
    goes in one statement, since every one costs a round trip. What is for one table keeps its
    order; a fault is told when it goes. A unit that asks nothing on its way, and ends with a row
    that is to be there, is that one statement alone, a transaction by itself: whoever loses the
    connection then learns by that row what was done. It reads nothing that another could change.
    """

    __slots__ = ("_begin", "_change", "_conn", "_in_transaction", "_sure", "_tables", "_waiting")

    dialect: Final = POSTGRES

    def __init__(self, conn: Connection, begin: str = "") -> None:
        """`begin` goes before the first statement that is not the only one."""
        self._conn = conn
        self._begin = begin
        self._in_transaction = False
        self._waiting: list[tuple[Batch, list[tuple[Any, ...]]]] = []
        self._sure: tuple[UpdateRows, list[tuple[Any, ...]]] | None = None
        self._change: tuple[Change, tuple[Any, ...], LateRows] | None = None
        self._tables: set[str] = set()

    async def commit(self) -> None:
        """Send what waits, and end the transaction.

        Raises: CommitUnknown, when nobody can tell whether it was done.
        """
        if self._sure is not None and not self._in_transaction:
            await self._surely(self._send())
            return
        if self._tables:
            await self._ready()
        if self._in_transaction:
            await self._surely(self._conn.execute("COMMIT"))

    async def _surely(self, last: Coroutine[Any, Any, object]) -> None:
        try:
            await last
        except Exception as error:
            if isinstance(translate(error, gone=self._conn.is_closed()), DatabaseUnavailable):
                raise CommitUnknown(f"PostgreSQL was lost while it committed: {error}") from error
            raise

    async def _ready(self) -> None:
        """Be in a transaction, if there is to be one, in which nothing waits."""
        if self._begin and not self._in_transaction:
            self._in_transaction = True
            await self._conn.execute(self._begin)
        if self._tables:
            await self._send()

    async def _send(self) -> None:
        waiting, sure, change = self._waiting, self._sure, self._change
        self._waiting, self._sure, self._change = [], None, None
        self._tables.clear()
        text = together(
            tuple([batch for batch, _ in waiting]), sure and sure[0], change and change[0]
        )
        args: list[Any] = [column for _, columns in waiting for column in columns]
        if sure is not None:
            args += sure[1]
        if change is None and sure is None:
            await self._conn.execute(text, *args)
            return
        if change is not None:
            args += change[1]
        try:
            rows = await self._conn.fetch(text, *args)
        except asyncpg.DivisionByZeroError as error:
            assert sure is not None
            raise RowMissing(f"no such row of {sure[0].table}") from error
        if change is not None:
            change[2].come([row for row in rows if row[0] is not None])

    async def fetch(self, query: Query, *args: Any) -> Sequence[Row]:
        await self._ready()
        return await self._conn.fetch(_text(query), *args)

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        await self._ready()
        return await self._conn.fetchrow(_text(query), *args)

    async def fetchval(self, query: Query, *args: Any) -> Any:
        await self._ready()
        return await self._conn.fetchval(_text(query), *args)

    async def execute(self, query: Query, *args: Any) -> int:
        await self._ready()
        return _touched(await self._conn.execute(_text(query), *args))

    async def executemany(self, query: Query, rows: Sequence[RowValues]) -> None:
        if rows:
            await self._ready()
            await self._conn.executemany(_text(query), rows)

    async def insert_rows(self, insert: Rows, rows: Sequence[RowValues]) -> None:
        await self._add(insert, rows)

    async def update_rows(self, update: UpdateRows, rows: Sequence[RowValues]) -> None:
        await self._add(update, rows)

    async def _add(self, batch: Batch, rows: Sequence[RowValues]) -> None:
        if rows:
            await self._make_room(batch.table)
            self._waiting.append((batch, as_lists(batch, rows)))

    async def update_row(self, update: UpdateRows, row: RowValues) -> None:
        await self._make_room(update.table, self._sure)
        self._sure = update, as_lists(update, [row])

    async def change(self, change: Change, *args: Any) -> LateRows:
        await self._make_room(change.table, self._change)
        late = LateRows()
        self._change = change, args, late
        return late

    async def _make_room(self, table: str, taken: object = None) -> None:
        """Let what is for the same table go first: in one statement neither would see the other."""
        if table in self._tables or taken is not None:
            await self._ready()
        self._tables.add(table)

    async def next_ids(self, stream: str, count: int) -> list[int]:
        # What waits has nothing to do with it, and no transaction makes it undone.
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
