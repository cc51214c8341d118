"""The database interface: units of work, the `Tx` they run on, and database errors.

A unit of work is `async def unit(tx, *args)` and runs whole in one transaction (except under
`Database.read`). Rules for units:

- A unit awaits nothing but `tx` and touches no trio object: it runs outside the trio thread, with
  SQLite in a thread of the database, with PostgreSQL in the thread of the asyncio loop.
- A unit has no effect but its transaction and its return value: after a conflict or a lost
  connection it is run again from the start.
- A unit does not catch database errors. PostgreSQL refuses every later statement of a transaction
  with an error in it, and a deferred statement (`Tx.insert_rows` and its like) may fail only when
  a later statement, or the end of the unit, sends it.

Rules for callers:

- When `Database.write` returns, the transaction is on disk. When it raises a database error,
  nothing was written, unless the error is CommitUnknown: then the unit may or may not have been
  written. The database does not retry after CommitUnknown, since a unit that is not idempotent
  could be applied twice; the caller must look, or use a unit that may be repeated.
- Cancelling a caller does not undo its write. The unit runs to its end, and the call returns the
  result as if nothing had been cancelled. If the call does raise Cancelled (PostgreSQL, after a
  grace period), the unit may or may not have been written.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import attrs

from hs.core.errors import OutcomeUnknown, Unavailable
from hs.lib.tally import Tally
from hs.storage.dialect import Dialect, Engine, Query
from hs.storage.rows import ChangeReturning, InsertRows, RowValues, UpdateRows

P = ParamSpec("P")
T = TypeVar("T")


class Row(Protocol):
    """A result row: `row[0]` or `row["name"]`; iterating yields its values."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class DeferredRows:
    """Rows that a deferred `ChangeReturning` returned; available when its unit has ended."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: Sequence[Row] | None = None

    @property
    def rows(self) -> Sequence[Row]:
        """The returned rows.

        Raises: CommitUnknown, if the connection was lost before the rows arrived.
        """
        if self._rows is None:
            raise CommitUnknown("the connection was lost before the changed rows were returned")
        return self._rows

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Store the rows; called by the Tx."""
        self._rows = rows


class Tx(Protocol):
    """A transaction, as a unit of work sees it; parameters are written `$1`, `$2`, ….

    A list may be passed where the statement uses `dialect.any_of` or `dialect.unnest`. Booleans
    are SMALLINT 0 and 1, in arguments and in results.

    `insert_rows`, `update_rows`, `update_row` and `change_returning` may be deferred: PostgreSQL
    sends them with the next statement or at the end of the unit, and their errors are raised
    there. Every later statement of the unit sees their effect.
    """

    @property
    def dialect(self) -> Dialect: ...

    async def fetch(self, query: Query, *args: Any) -> Sequence[Row]:
        """Run a statement; return all its rows."""

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        """Run a statement; return its first row."""

    async def fetchval(self, query: Query, *args: Any) -> Any:
        """Run a statement; return the first value of its first row, or None."""

    async def execute(self, query: Query, *args: Any) -> int:
        """Run a statement without RETURNING; return the number of affected rows."""

    async def executemany(self, query: Query, rows: Sequence[RowValues]) -> None:
        """Run a statement once for each row of parameters."""

    async def insert_rows(self, insert: InsertRows, rows: Sequence[RowValues]) -> None:
        """Insert rows with one statement (deferred); `rows` may be empty."""

    async def update_rows(self, update: UpdateRows, rows: Sequence[RowValues]) -> None:
        """Update rows by key with one statement (deferred); `rows` may be empty."""

    async def update_row(self, update: UpdateRows, row: RowValues) -> None:
        """Update one row by its key (deferred).

        Raises: RowMissing, by the end of the unit, if no row has this key.
        """

    async def change_returning(self, change: ChangeReturning, *args: Any) -> DeferredRows:
        """Change rows (deferred); the changed rows are available when the unit has ended."""

    async def next_ids(self, stream: str, count: int) -> list[int]:
        """Allocate IDs of a stream that the schema declares by `CREATE STREAM name;`.

        The IDs increase and are greater than all IDs allocated before. They need not be
        consecutive: concurrent units allocate theirs, and a failed unit may leave a gap.
        """


Unit = Callable[Concatenate[Tx, P], Coroutine[Any, Any, T]]


@attrs.frozen
class DatabaseLoad:
    """The load of a database as seen from this process; for metrics.

    `units` counts finished units by kind ("read", "snapshot", "write"); their seconds run from
    the call to the result. `fault` says why writes are refused, or is None.
    """

    connections: int
    connections_used: int
    max_connections: int
    waiting: int
    units: Mapping[str, Tally]
    fault: str | None = None


class Database(Protocol):
    """A database that runs units of work.

    A cancelled `read` or `write` runs to its end and returns its result; PostgreSQL gives up after
    a grace period. A cancelled `read_long` is stopped in the database at once.

    Raises: the errors below, after retrying conflicts and lost connections where that is safe.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def dialect(self) -> Dialect: ...

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a short read-only unit; each of its statements may see newer commits."""

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a short read-only unit; all its statements see the same snapshot."""

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only unit that may take more than 50 ms; it sees one snapshot."""

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit in its own transaction; return after the commit is on disk."""

    async def write_idempotent(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit that may run again after it was committed.

        Each of its statements may be a transaction of its own.
        """

    def load(self) -> DatabaseLoad:
        """Return the current load."""


class DatabaseError(Exception):
    """The database rejected a statement: a bug here, unless a subclass below applies."""


class ConstraintViolation(DatabaseError):
    """A row violates a constraint; `constraint` is the engine's name for it."""

    def __init__(self, message: str, constraint: str = "") -> None:
        super().__init__(message)
        self.constraint = constraint


class UniqueViolation(ConstraintViolation):
    """A row with this key already exists."""


class ForeignKeyViolation(ConstraintViolation):
    """A row refers to a row that does not exist, or is still referred to."""


class RowMissing(DatabaseError):
    """The row that `Tx.update_row` should change does not exist."""


class ForeignDatabase(DatabaseError):
    """The database belongs to another program or to a newer version; nothing was written."""


class DatabaseUnavailable(DatabaseError, Unavailable):
    """The database cannot be reached or cannot work now; nothing was written."""


class DatabaseHung(DatabaseUnavailable):
    """The database has stopped to answer; nothing was written."""


class DatabaseRefusal(DatabaseUnavailable):
    """The database answers, but refuses to work until an administrator intervenes."""


class CommitUnknown(DatabaseUnavailable, OutcomeUnknown):
    """The connection was lost during the commit: the unit may have been written, or not."""


class DatabaseConflict(DatabaseError, Unavailable):
    """The transaction conflicted with concurrent ones, even after retries."""


class DatabaseTimeout(DatabaseError, Unavailable):
    """The statement exceeded its time limit."""
