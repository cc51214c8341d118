"""Transactions on an SQLite connection; units run from start to end in the calling thread.

- A unit never suspends: `run_unit` starts its coroutine and expects it to finish. A coroutine that
  awaits anything but its Tx is an error.
- A read unit runs between BEGIN and ROLLBACK: all its statements see one snapshot.
- A group of write units runs in one transaction, and one sync to disk serves all of them. Each
  unit has a savepoint: a unit that fails is rolled back alone. If the COMMIT or the disk fails,
  all units of the group fail with DatabaseUnavailable, and nothing of them is written.
"""

import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import outcome

from hs.storage.database import (
    ConstraintViolation,
    DatabaseError,
    DatabaseRefusal,
    DatabaseUnavailable,
    DeferredRows,
    ForeignKeyViolation,
    Row,
    RowMissing,
    UniqueViolation,
)
from hs.storage.dialect import SQLITE, Query, Statement, sqlite_parameters
from hs.storage.rows import ChangeReturning, InsertRows, RowValues, UpdateRows

T = TypeVar("T")
SqliteConnection = sqlite3.Connection
Call = Callable[["SqliteTx"], T]

BUSY_TIMEOUT_MS: Final = 5000

# The file is damaged, or may not be written to; a write in a read-only unit is our own mistake.
_REFUSALS: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_READONLY_", "SQLITE_PERM")

_LIST_TYPES: Final = frozenset((list, tuple, set, frozenset))

# wal_autocheckpoint: pages are rewritten often, so checkpoints are rare; 4000 pages is as many as
# one segment of the WAL's index can list. cache_size: there are four connections, and caches of
# ours hold what is read often; a larger page cache, or mmap, would only hold it twice.
# secure_delete: deleted data is overwritten with zeros in the file; this costs a seventh more page
# writes where much is deleted.
_PRAGMAS: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA cache_size = -8192;
PRAGMA temp_store = MEMORY;
PRAGMA foreign_keys = ON;
"""

_NEXT_IDS: Final = (
    "UPDATE stream_ids SET last_id = last_id + ?2 WHERE stream = ?1 RETURNING last_id"
)


def connect(path: Path | str, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> sqlite3.Connection:
    """Open a connection in autocommit mode: transactions are begun explicitly."""
    conn = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=1024
    )
    conn.execute(f"PRAGMA busy_timeout = {busy_timeout_ms:d}")
    conn.executescript(_PRAGMAS)
    conn.row_factory = sqlite3.Row
    return conn


class SqliteTx:
    """The Tx of SQLite; its coroutines never suspend.

    `is_cancelled` is called before each statement.
    """

    __slots__ = ("_conn", "_is_cancelled")

    dialect: Final = SQLITE

    def __init__(
        self, conn: sqlite3.Connection, is_cancelled: Callable[[], bool] | None = None
    ) -> None:
        self._conn = conn
        self._is_cancelled = is_cancelled

    async def fetch(self, query: Query, *args: Any) -> Sequence[Row]:
        return self._run(query, args).fetchall()

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        # Fetch all rows: a statement with RETURNING stops halfway if they are not all read.
        rows = self._run(query, args).fetchall()
        return rows[0] if rows else None

    async def fetchval(self, query: Query, *args: Any) -> Any:
        rows = self._run(query, args).fetchall()
        return rows[0][0] if rows else None

    async def execute(self, query: Query, *args: Any) -> int:
        return max(0, self._run(query, args).rowcount)

    async def executemany(self, query: Query, rows: Sequence[RowValues]) -> None:
        self._conn.executemany(_text(query), rows)

    async def insert_rows(self, insert: InsertRows, rows: Sequence[RowValues]) -> None:
        self._conn.executemany(insert.sqlite, rows)

    async def update_rows(self, update: UpdateRows, rows: Sequence[RowValues]) -> None:
        self._conn.executemany(update.sqlite, rows)

    async def update_row(self, update: UpdateRows, row: RowValues) -> None:
        if self._conn.execute(update.sqlite, row).rowcount != 1:
            raise RowMissing(f"no row with this key in {update.table}")

    async def change_returning(self, change: ChangeReturning, *args: Any) -> DeferredRows:
        late = DeferredRows()
        late.set_rows(self._run(change.statement, args).fetchall())
        return late

    async def next_ids(self, stream: str, count: int) -> list[int]:
        rows = self._conn.execute(_NEXT_IDS, (stream, count)).fetchall()
        if not rows:
            raise DatabaseError(f"stream is not declared in the schema: {stream}")
        last = rows[0][0]
        return list(range(last - count + 1, last + 1))

    def _run(self, query: Query, args: tuple[Any, ...]) -> sqlite3.Cursor:
        if self._is_cancelled is not None and self._is_cancelled():
            raise sqlite3.OperationalError("interrupted")
        for arg in args:
            if type(arg) in _LIST_TYPES:
                args = tuple(_encode_list(arg) for arg in args)
                break
        return self._conn.execute(_text(query), args)


def run_unit(unit: Coroutine[Any, Any, T]) -> T:
    """Run a unit from start to end in this thread.

    Raises: RuntimeError, if the unit awaits anything but its Tx.
    """
    try:
        unit.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    unit.close()
    raise RuntimeError("a unit of work must await only its tx")


def run_read(
    conn: sqlite3.Connection, call: Call[T], is_cancelled: Callable[[], bool] | None = None
) -> T:
    """Run a read-only unit in one snapshot.

    Raises: what the unit raises; errors of SQLite as DatabaseError.
    """
    try:
        conn.execute("BEGIN")
        return call(SqliteTx(conn, is_cancelled))
    except sqlite3.Error as error:
        raise translate_error(error) from error
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")


def write_group(conn: sqlite3.Connection, calls: Sequence[Call[Any]]) -> list[outcome.Outcome[Any]]:
    """Run units in one transaction; return their outcomes in order.

    A unit that fails is rolled back to its savepoint; the other units are committed.
    """
    try:
        conn.execute("BEGIN IMMEDIATE")
        is_single = len(calls) == 1
        results = [_run_in_savepoint(conn, call, is_single) for call in calls]
        if not (is_single and isinstance(results[0], outcome.Error)):
            conn.execute("COMMIT")
    except sqlite3.Error as error:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        unavailable = DatabaseUnavailable(f"SQLite cannot write: {error}")
        return [outcome.Error(unavailable) for _ in calls]
    return results


def _run_in_savepoint(
    conn: sqlite3.Connection, call: Call[Any], is_single: bool
) -> outcome.Outcome[Any]:
    if not is_single:
        conn.execute("SAVEPOINT unit")
    result: outcome.Outcome[Any] = outcome.capture(call, SqliteTx(conn))
    if isinstance(result, outcome.Error):
        if isinstance(result.error, sqlite3.Error):
            if not conn.in_transaction:
                # On a full disk and some other errors, SQLite rolls back the whole transaction.
                raise result.error
            result = outcome.Error(translate_error(result.error))
        conn.execute("ROLLBACK" if is_single else "ROLLBACK TO unit")
    if not is_single:
        conn.execute("RELEASE unit")
    return result


def translate_error(error: sqlite3.Error) -> DatabaseError:
    """Translate an exception of sqlite3 into a DatabaseError."""
    message = str(error)
    code = getattr(error, "sqlite_errorname", "")
    if code in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
        return UniqueViolation(message, message.rpartition(": ")[2])
    if code == "SQLITE_CONSTRAINT_FOREIGNKEY":
        return ForeignKeyViolation(message)
    if isinstance(error, sqlite3.IntegrityError):
        return ConstraintViolation(message, message.rpartition(": ")[2])
    if code.startswith(("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")):
        return DatabaseUnavailable(message)
    if code.startswith(_REFUSALS):
        return DatabaseRefusal(message)
    return DatabaseError(message)


def _text(query: Query) -> str:
    return query.sqlite if isinstance(query, Statement) else sqlite_parameters(query)


def _encode_list(arg: Any) -> Any:
    return orjson.dumps(list(arg)).decode() if type(arg) in _LIST_TYPES else arg
