"""Units of work on one SQLite connection, run in the calling thread from start to end."""

import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import outcome

from hs.storage.database import (
    ConstraintViolation,
    DatabaseError,
    DatabaseUnavailable,
    ForeignViolation,
    LateRows,
    Row,
    RowMissing,
    UniqueViolation,
)
from hs.storage.dialect import SQLITE, Query, Statement, numbered
from hs.storage.rows import Change, Rows, RowValues, UpdateRows

T = TypeVar("T")
SqliteConnection = sqlite3.Connection
Call = Callable[["SqliteTx"], T]

BUSY_TIMEOUT_MS: Final = 5000

_LISTS: Final = frozenset((list, tuple, set, frozenset))

# Pages are written again and again: as many wait in the log as one part of its index can tell of.
# There are four connections, and what is read often is kept by caches of ours: more pages, or the
# whole file mapped into memory, would only be kept twice. What is deleted is gone from the file,
# too: that costs a seventh more pages to write where much is deleted.
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
    """Open a connection; Python's own handling of transactions is off."""
    conn = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=1024
    )
    conn.execute(f"PRAGMA busy_timeout = {busy_timeout_ms:d}")
    conn.executescript(_PRAGMAS)
    conn.row_factory = sqlite3.Row
    return conn


class SqliteTx:
    """The Tx of SQLite; none of its coroutines ever suspends."""

    __slots__ = ("_conn", "_given_up")

    dialect: Final = SQLITE

    def __init__(
        self, conn: sqlite3.Connection, given_up: Callable[[], bool] | None = None
    ) -> None:
        self._conn = conn
        self._given_up = given_up

    async def fetch(self, query: Query, *args: Any) -> Sequence[Row]:
        return self._run(query, args).fetchall()

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        # All rows are read, else a statement with RETURNING would stop half way.
        rows = self._run(query, args).fetchall()
        return rows[0] if rows else None

    async def fetchval(self, query: Query, *args: Any) -> Any:
        rows = self._run(query, args).fetchall()
        return rows[0][0] if rows else None

    async def execute(self, query: Query, *args: Any) -> int:
        return max(0, self._run(query, args).rowcount)

    async def executemany(self, query: Query, rows: Sequence[RowValues]) -> None:
        self._conn.executemany(_text(query), rows)

    async def insert_rows(self, insert: Rows, rows: Sequence[RowValues]) -> None:
        self._conn.executemany(insert.sqlite, rows)

    async def update_rows(self, update: UpdateRows, rows: Sequence[RowValues]) -> None:
        self._conn.executemany(update.sqlite, rows)

    async def update_row(self, update: UpdateRows, row: RowValues) -> None:
        if self._conn.execute(update.sqlite, row).rowcount != 1:
            raise RowMissing(f"no such row of {update.table}")

    async def change(self, change: Change, *args: Any) -> LateRows:
        late = LateRows()
        late.come(self._run(change.statement, args).fetchall())
        return late

    async def next_ids(self, stream: str, count: int) -> list[int]:
        rows = self._conn.execute(_NEXT_IDS, (stream, count)).fetchall()
        if not rows:
            raise DatabaseError(f"no such stream: {stream}")
        last = rows[0][0]
        return list(range(last - count + 1, last + 1))

    def _run(self, query: Query, args: tuple[Any, ...]) -> sqlite3.Cursor:
        if self._given_up is not None and self._given_up():
            raise sqlite3.OperationalError("interrupted")
        for arg in args:
            if type(arg) in _LISTS:
                args = tuple(_plain(arg) for arg in args)
                break
        return self._conn.execute(_text(query), args)


def drive(unit: Coroutine[Any, Any, T]) -> T:
    """Run a unit straight through; it must not wait for anything but its Tx."""
    try:
        unit.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    unit.close()
    raise RuntimeError("a unit of work awaits only its tx")


def read_once(
    conn: sqlite3.Connection, call: Call[T], given_up: Callable[[], bool] | None = None
) -> T:
    """Run a unit that reads, all of it seeing one moment."""
    try:
        conn.execute("BEGIN")
        return call(SqliteTx(conn, given_up))
    except sqlite3.Error as error:
        raise translate(error) from error
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")


def write_group(conn: sqlite3.Connection, calls: Sequence[Call[Any]]) -> list[outcome.Outcome[Any]]:
    """Run units in one transaction, each undone alone when it fails; return their outcomes."""
    try:
        conn.execute("BEGIN IMMEDIATE")
        is_alone = len(calls) == 1
        results = [_write_one(conn, call, is_alone) for call in calls]
        if not (is_alone and isinstance(results[0], outcome.Error)):
            conn.execute("COMMIT")
    except sqlite3.Error as error:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        lost = DatabaseUnavailable(f"SQLite cannot write: {error}")
        return [outcome.Error(lost) for _ in calls]
    return results


def _write_one(conn: sqlite3.Connection, call: Call[Any], is_alone: bool) -> outcome.Outcome[Any]:
    if not is_alone:
        conn.execute("SAVEPOINT unit")
    result: outcome.Outcome[Any] = outcome.capture(call, SqliteTx(conn))
    if isinstance(result, outcome.Error):
        if isinstance(result.error, sqlite3.Error):
            if not conn.in_transaction:
                # Disk full and the like undo the whole transaction, not only this unit.
                raise result.error
            result = outcome.Error(translate(result.error))
        conn.execute("ROLLBACK" if is_alone else "ROLLBACK TO unit")
    if not is_alone:
        conn.execute("RELEASE unit")
    return result


def translate(error: sqlite3.Error) -> DatabaseError:
    """Say SQLite's error in the words of `hs.storage.database`."""
    message = str(error)
    code = getattr(error, "sqlite_errorname", "")
    if code in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
        return UniqueViolation(message, message.rpartition(": ")[2])
    if code == "SQLITE_CONSTRAINT_FOREIGNKEY":
        return ForeignViolation(message)
    if isinstance(error, sqlite3.IntegrityError):
        return ConstraintViolation(message, message.rpartition(": ")[2])
    if code.startswith(("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")):
        return DatabaseUnavailable(message)
    return DatabaseError(message)


def _text(query: Query) -> str:
    return query.sqlite if isinstance(query, Statement) else numbered(query)


def _plain(arg: Any) -> Any:
    return orjson.dumps(list(arg)).decode() if type(arg) in _LISTS else arg
