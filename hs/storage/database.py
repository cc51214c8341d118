"""What the rest of the program knows of a database: units of work run on a Tx, and its errors.

A unit is `async def unit(tx, *args)`. It awaits nothing but `tx`, touches no trio object and
changes nothing outside of itself, because it runs in another thread and may be run again after
a conflict. A database error ends the unit: it is never caught inside, only by the caller.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import attrs

from hs.core.errors import Unavailable
from hs.lib.tally import Tally
from hs.storage.dialect import Dialect, Engine, Query
from hs.storage.rows import Change, Rows, RowValues, UpdateRows

P = ParamSpec("P")
T = TypeVar("T")


class Row(Protocol):
    """One row of a result: `row[0]` or `row["name"]`; iterates over its values."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class LateRows:
    """What a change of rows gave back, once its unit is over."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: Sequence[Row] | None = None

    @property
    def rows(self) -> Sequence[Row]:
        """The rows. Raises: CommitUnknown, when they were lost with the connection."""
        if self._rows is None:
            raise CommitUnknown("the database was lost before it told what it had changed")
        return self._rows

    def come(self, rows: Sequence[Row]) -> None:
        """Take the rows; by the Tx."""
        self._rows = rows


class Tx(Protocol):
    """The door to the database inside a unit of work; parameters are `$1`, `$2`, ….

    A list as an argument goes with `dialect.any_of` or `dialect.unnest`. Booleans are SMALLINT
    0 and 1, in and out.
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
        """Run a statement without RETURNING; return the number of rows it touched."""

    async def executemany(self, query: Query, rows: Sequence[RowValues]) -> None:
        """Run a statement once for each row of parameters."""

    async def insert_rows(self, insert: Rows, rows: Sequence[RowValues]) -> None:
        """Insert many rows by one statement; no rows is fine.

        It may go, and fail, as late as with the next statement, or at the unit's end.
        """

    async def update_rows(self, update: UpdateRows, rows: Sequence[RowValues]) -> None:
        """Update many rows by key with one statement; no rows is fine. When: as `insert_rows`."""

    async def update_row(self, update: UpdateRows, row: RowValues) -> None:
        """Update one row by its key; without such a row the unit fails with RowMissing.

        When: as `insert_rows`.
        """

    async def change(self, change: Change, *args: Any) -> LateRows:
        """Change rows, and learn at the unit's end which they were, unless the answer is lost.

        When: as `insert_rows`.
        """

    async def next_ids(self, stream: str, count: int) -> list[int]:
        """Take ids of a stream, which is declared in the schema by `CREATE STREAM name;`.

        They increase, and are above all ids taken before, but they need not be consecutive:
        other writers take theirs meanwhile, and a unit that fails may leave a gap.
        """


Unit = Callable[Concatenate[Tx, P], Coroutine[Any, Any, T]]


@attrs.frozen
class Load:
    """How busy a database is as seen from this process; for metrics.

    `units` are those done by kind, with the time from asking to having the result.
    """

    connections: int
    connections_used: int
    max_connections: int
    waiting: int
    units: Mapping[str, Tally]


class Database(Protocol):
    """A database that runs units of work.

    A cancelled `read` or `write` still runs to its end, and the caller learns its result;
    a cancelled `read_long` is stopped in the database.
    Raises: the errors below, after retrying what can be retried.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def dialect(self) -> Dialect: ...

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a short unit that only reads; each of its statements may see newer commits."""

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a short unit that only reads, all its statements seeing one moment."""

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit that may read for more than 50 ms, seeing one moment."""

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit in a transaction of its own; when this returns, it is on disk."""

    def load(self) -> Load:
        """Tell how busy it is."""


class DatabaseError(Exception):
    """The engine refused a statement: our bug, unless it is one of the kinds below."""


class ConstraintViolation(DatabaseError):
    """A row breaks a constraint; `constraint` is what the engine calls it."""

    def __init__(self, message: str, constraint: str = "") -> None:
        super().__init__(message)
        self.constraint = constraint


class UniqueViolation(ConstraintViolation):
    """A row with that key exists."""


class ForeignViolation(ConstraintViolation):
    """A row refers to one that does not exist, or is still referred to."""


class RowMissing(DatabaseError):
    """The row that `Tx.update_row` was to change does not exist."""


class DatabaseUnavailable(DatabaseError, Unavailable):
    """The engine cannot be reached or cannot work now; nothing was written."""


class CommitUnknown(DatabaseUnavailable):
    """The engine was lost while it committed: the unit may have been written, or not."""


class DatabaseConflict(DatabaseError, Unavailable):
    """Concurrent transactions kept getting in the way, even after retries."""


class DatabaseTimeout(DatabaseError, Unavailable):
    """The statement took longer than the limit set for it."""
