"""Transactions on an asyncpg connection, and the translation of asyncpg's errors.

Every statement costs a round trip, so `PostgresTx` defers the batches (`insert_rows`,
`update_rows`), the required update (`update_row`) and the returning change (`change_returning`)
until the next other statement or the end of the unit, and sends them combined into one statement.
The rules:

- Parts of one combined statement do not see each other, so it has at most one part per table, one
  required update and one returning change. Before another one is deferred, the statement is sent.
- BEGIN is sent with the first statement that is not certain to be the unit's only one.
- A unit that only defers, and has a required update, is one statement without BEGIN and COMMIT: a
  transaction of its own. If the connection is lost meanwhile, the outcome is CommitUnknown, and
  the caller can find it out by reading the required row. Such a unit has read nothing, so it does
  not need the isolation of REPEATABLE READ.
- An error of a deferred part is raised when the part is sent.
"""

from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeAlias

import asyncpg

from hs.storage.database import (
    CommitUnknown,
    ConstraintViolation,
    DatabaseConflict,
    DatabaseError,
    DatabaseRefusal,
    DatabaseTimeout,
    DatabaseUnavailable,
    DeferredRows,
    ForeignKeyViolation,
    Row,
    RowMissing,
    UniqueViolation,
)
from hs.storage.dialect import POSTGRES, Query, Statement
from hs.storage.rows import (
    Batch,
    ChangeReturning,
    InsertRows,
    RowValues,
    UpdateRows,
    combine_batches,
    to_columns,
)

# A string, because the class takes a type parameter in its stubs only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NEXT_IDS: Final = "SELECT nextval($1::text::regclass) FROM generate_series(1, $2::bigint)"

_CONNECTION_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
# For example: the disk is full, the server has become a standby, the role lost its privileges, the
# database was dropped, data is damaged.
_REFUSALS = (
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.PostgresSystemError,
    asyncpg.DataCorruptedError,
    asyncpg.IndexCorruptedError,
)


class PostgresTx:
    """The Tx of PostgreSQL; see the module docstring for what is deferred."""

    __slots__ = (
        "_begin",
        "_change",
        "_conn",
        "_deferred",
        "_deferred_tables",
        "_in_transaction",
        "_required",
    )

    dialect: Final = POSTGRES

    def __init__(self, conn: Connection, begin: str = "") -> None:
        """Use a connection; `begin` is the statement that begins a transaction, or ""."""
        self._conn = conn
        self._begin = begin
        self._in_transaction = False
        self._deferred: list[tuple[Batch, list[tuple[Any, ...]]]] = []
        self._required: tuple[UpdateRows, list[tuple[Any, ...]]] | None = None
        self._change: tuple[ChangeReturning, tuple[Any, ...], DeferredRows] | None = None
        self._deferred_tables: set[str] = set()

    async def commit(self) -> None:
        """Send the deferred statements and commit.

        Raises: CommitUnknown, if the connection was lost before the server confirmed the commit.
        """
        if self._required is not None and not self._in_transaction:
            await self._committing(self._send())
            return
        if self._deferred_tables:
            await self._flush()
        if self._in_transaction:
            await self._committing(self._conn.execute("COMMIT"))

    async def _committing(self, statement: Coroutine[Any, Any, object]) -> None:
        try:
            await statement
        except Exception as error:
            if isinstance(
                translate_error(error, is_closed=self._conn.is_closed()), DatabaseUnavailable
            ):
                raise CommitUnknown(
                    f"connection to PostgreSQL was lost during a commit: {error}"
                ) from error
            raise

    async def _flush(self) -> None:
        """Begin the transaction if it has not begun, and send the deferred statements."""
        if self._begin and not self._in_transaction:
            self._in_transaction = True
            await self._conn.execute(self._begin)
        if self._deferred_tables:
            await self._send()

    async def _send(self) -> None:
        deferred, required, change = self._deferred, self._required, self._change
        self._deferred, self._required, self._change = [], None, None
        self._deferred_tables.clear()
        text = combine_batches(
            tuple([batch for batch, _ in deferred]),
            required and required[0],
            change and change[0],
        )
        args: list[Any] = [column for _, columns in deferred for column in columns]
        if required is not None:
            args += required[1]
        if change is None and required is None:
            await self._conn.execute(text, *args)
            return
        if change is not None:
            args += change[1]
        try:
            rows = await self._conn.fetch(text, *args)
        except asyncpg.DivisionByZeroError as error:
            assert required is not None
            raise RowMissing(f"no row with this key in {required[0].table}") from error
        if change is not None:
            change[2].set_rows([row for row in rows if row[0] is not None])

    async def fetch(self, query: Query, *args: Any) -> Sequence[Row]:
        await self._flush()
        return await self._conn.fetch(_text(query), *args)

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        await self._flush()
        return await self._conn.fetchrow(_text(query), *args)

    async def fetchval(self, query: Query, *args: Any) -> Any:
        await self._flush()
        return await self._conn.fetchval(_text(query), *args)

    async def execute(self, query: Query, *args: Any) -> int:
        await self._flush()
        return _affected_rows(await self._conn.execute(_text(query), *args))

    async def executemany(self, query: Query, rows: Sequence[RowValues]) -> None:
        if rows:
            await self._flush()
            await self._conn.executemany(_text(query), rows)

    async def insert_rows(self, insert: InsertRows, rows: Sequence[RowValues]) -> None:
        await self._defer(insert, rows)

    async def update_rows(self, update: UpdateRows, rows: Sequence[RowValues]) -> None:
        await self._defer(update, rows)

    async def _defer(self, batch: Batch, rows: Sequence[RowValues]) -> None:
        if rows:
            await self._flush_if_taken(batch.table)
            self._deferred.append((batch, to_columns(batch, rows)))

    async def update_row(self, update: UpdateRows, row: RowValues) -> None:
        await self._flush_if_taken(update.table, self._required)
        self._required = update, to_columns(update, [row])

    async def change_returning(self, change: ChangeReturning, *args: Any) -> DeferredRows:
        await self._flush_if_taken(change.table, self._change)
        late = DeferredRows()
        self._change = change, args, late
        return late

    async def _flush_if_taken(self, table: str, taken: object = None) -> None:
        """Send the deferred statements first if one of them uses this table or this place."""
        if table in self._deferred_tables or taken is not None:
            await self._flush()
        self._deferred_tables.add(table)

    async def next_ids(self, stream: str, count: int) -> list[int]:
        # A sequence is independent of the transaction and of the deferred statements.
        rows = await self._conn.fetch(NEXT_IDS, f"{stream}_ids", count)
        return [row[0] for row in rows]


def translate_error(error: BaseException, *, is_closed: bool) -> DatabaseError | None:
    """Translate an exception of asyncpg into a DatabaseError; None for other exceptions.

    `is_closed` says that the connection is closed, or could not be opened.
    """
    match error:
        case asyncpg.UniqueViolationError():
            return UniqueViolation(str(error), error.constraint_name or "")
        case asyncpg.ForeignKeyViolationError():
            return ForeignKeyViolation(str(error), error.constraint_name or "")
        case asyncpg.IntegrityConstraintViolationError():
            return ConstraintViolation(str(error), error.constraint_name or "")
        case asyncpg.SerializationError() | asyncpg.DeadlockDetectedError():
            return DatabaseConflict(str(error))
        case asyncpg.QueryCanceledError():
            return DatabaseTimeout(str(error))
        case TimeoutError() if not is_closed:
            return DatabaseTimeout(str(error))
        case _ if isinstance(error, _CONNECTION_LOST):
            return DatabaseUnavailable(f"PostgreSQL: {_cause(error)}")
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            # asyncpg raises these for wrong arguments as well as for a closed connection.
            return (
                DatabaseUnavailable(f"PostgreSQL: {error}")
                if is_closed
                else DatabaseError(str(error))
            )
        case _ if isinstance(error, _REFUSALS):
            return DatabaseRefusal(f"PostgreSQL: {error}")
        case asyncpg.PostgresError():
            return DatabaseError(f"{type(error).__name__}: {error}")
        case _:
            return None


def _cause(error: BaseException) -> str:
    """Return the cause of a lost connection as text, without the errno."""
    if isinstance(error, TimeoutError) and not str(error):
        return "connection timed out"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _affected_rows(status: str) -> int:
    """Read the number of affected rows in "UPDATE 3", "INSERT 0 1" or "CREATE TABLE"."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


def _text(query: Query) -> str:
    return query.postgres if isinstance(query, Statement) else query
