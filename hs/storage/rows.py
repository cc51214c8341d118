"""Batches of rows: one INSERT or UPDATE for many rows, in the quickest form of each engine.

And what PostgreSQL makes of several of them: one statement.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from hs.storage.dialect import POSTGRES, Column, Statement, parse_columns, shifted

RowValues = Sequence[Any]


class Rows:
    """A multi-row INSERT; `Rows("events", "stream_id bigint, room_id text")`.

    `conflict` is an ON CONFLICT clause. With DO UPDATE no two rows of one batch may have the
    same key: PostgreSQL refuses that, SQLite lets the last one win.
    """

    __slots__ = ("columns", "postgres", "sqlite", "table")

    def __init__(self, table: str, columns: str, conflict: str = "") -> None:
        self.table = table
        self.columns = parse_columns(columns)
        names = ", ".join(column.name for column in self.columns)
        batch = POSTGRES.unnest("batch", columns)
        marks = ", ".join(f"?{n}" for n in range(1, len(self.columns) + 1))
        self.postgres = f"INSERT INTO {table} ({names}) SELECT * FROM {batch} {conflict}".strip()
        self.sqlite = f"INSERT INTO {table} ({names}) VALUES ({marks}) {conflict}".strip()


class UpdateRows:
    """A multi-row UPDATE by key; each row is the key's columns followed by the new values."""

    __slots__ = ("columns", "postgres", "sqlite", "table")

    def __init__(self, table: str, key: str, values: str) -> None:
        self.table = table
        keys, changed = parse_columns(key), parse_columns(values)
        self.columns: tuple[Column, ...] = keys + changed
        batch = POSTGRES.unnest("batch", f"{key}, {values}")
        news = ", ".join(f"{column.name} = batch.{column.name}" for column in changed)
        match = " AND ".join(f"{table}.{column.name} = batch.{column.name}" for column in keys)
        self.postgres = f"UPDATE {table} SET {news} FROM {batch} WHERE {match}"
        places = {column.name: number for number, column in enumerate(self.columns, 1)}
        marks = ", ".join(f"{column.name} = ?{places[column.name]}" for column in changed)
        found = " AND ".join(f"{column.name} = ?{places[column.name]}" for column in keys)
        self.sqlite = f"UPDATE {table} SET {marks} WHERE {found}"


class Change:
    """A statement that changes rows of one table, with RETURNING.

    The first column that it returns is never NULL. It looks at no other table.
    """

    __slots__ = ("statement", "table")

    def __init__(self, table: str, statement: Statement) -> None:
        self.table = table
        self.statement = statement


Batch = Rows | UpdateRows


@functools.lru_cache(maxsize=4096)
def together(
    batches: tuple[Batch, ...], sure: UpdateRows | None = None, change: Change | None = None
) -> str:
    """Make one statement of PostgreSQL of what is for different tables; arguments in that order.

    All of it sees the tables as they are before it, and keys of other tables are checked behind
    it. Without the row that `sure` updates it divides by zero, and nothing is done.
    """
    texts: list[str] = []
    first = 0
    for batch in batches:
        texts.append(shifted(batch.postgres, first))
        first += len(batch.columns)
    last = texts.pop() if sure is None and change is None else "SELECT 1 / count(*) FROM sure"
    parts = [f"part{number} AS ({text})" for number, text in enumerate(texts)]
    if sure is not None:
        parts.append(f"sure AS ({shifted(sure.postgres, first)} RETURNING 1)")
        first += len(sure.columns)
    if change is not None:
        parts.append(f"changed AS ({shifted(change.statement.postgres, first)})")
        # A row that is sure is counted also if nothing was changed.
        counted = "(SELECT 1)" if sure is None else f"({last})"
        last = f"SELECT changed.* FROM {counted} AS one(row) LEFT JOIN changed ON one.row = 1"
    return f"WITH {', '.join(parts)} {last}" if parts else last


def as_lists(batch: Batch, rows: Iterable[RowValues]) -> list[tuple[Any, ...]]:
    """Turn rows into one list per column, the arguments of PostgreSQL's unnest."""
    lists = list(zip(*rows, strict=True))
    if len(lists) != len(batch.columns):
        raise ValueError(f"rows of {len(lists)} values for {len(batch.columns)} columns")
    return lists
