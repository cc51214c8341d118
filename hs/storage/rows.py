"""Statements that insert or update many rows at once, in the fastest form of each engine.

PostgreSQL receives the rows of a batch as one array per column and a single statement; several
batches for different tables are combined into one statement with `combine_batches`. SQLite runs
its statement once per row, which is fast because no round trip is involved.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from hs.storage.dialect import POSTGRES, Column, Statement, parse_columns, shift_parameters

RowValues = Sequence[Any]


class InsertRows:
    """A multi-row INSERT, for example `InsertRows("events", "stream_id bigint, room_id text")`.

    `conflict` is an ON CONFLICT clause. With DO UPDATE, the rows of one batch must have distinct
    keys: PostgreSQL rejects duplicates, SQLite keeps the last row.
    """

    __slots__ = ("columns", "postgres", "sqlite", "table")

    def __init__(self, table: str, columns: str, conflict: str = "") -> None:
        self.table = table
        self.columns = parse_columns(columns)
        names = ", ".join(column.name for column in self.columns)
        batch = POSTGRES.unnest("batch", columns)
        placeholders = ", ".join(f"?{n}" for n in range(1, len(self.columns) + 1))
        self.postgres = f"INSERT INTO {table} ({names}) SELECT * FROM {batch} {conflict}".strip()
        self.sqlite = f"INSERT INTO {table} ({names}) VALUES ({placeholders}) {conflict}".strip()


class UpdateRows:
    """A multi-row UPDATE by key; each row is the key columns followed by the new values.

    Rows that have a greater value in the column `rising` already stay as they are.
    """

    __slots__ = ("columns", "postgres", "sqlite", "table")

    def __init__(self, table: str, key: str, values: str, *, rising: str | None = None) -> None:
        self.table = table
        keys, changed = parse_columns(key), parse_columns(values)
        self.columns: tuple[Column, ...] = keys + changed
        batch = POSTGRES.unnest("batch", f"{key}, {values}")
        assignments = ", ".join(f"{column.name} = batch.{column.name}" for column in changed)
        key_match = " AND ".join(f"{table}.{column.name} = batch.{column.name}" for column in keys)
        if rising is not None:
            key_match += f" AND {table}.{rising} < batch.{rising}"
        self.postgres = f"UPDATE {table} SET {assignments} FROM {batch} WHERE {key_match}"
        numbers = {column.name: number for number, column in enumerate(self.columns, 1)}
        new_values = ", ".join(f"{column.name} = ?{numbers[column.name]}" for column in changed)
        key_values = " AND ".join(f"{column.name} = ?{numbers[column.name]}" for column in keys)
        if rising is not None:
            key_values += f" AND {rising} < ?{numbers[rising]}"
        self.sqlite = f"UPDATE {table} SET {new_values} WHERE {key_values}"


class ChangeReturning:
    """A statement with RETURNING that changes rows of one table and reads no other table.

    The first column that it returns is never NULL.
    """

    __slots__ = ("statement", "table")

    def __init__(self, table: str, statement: Statement) -> None:
        self.table = table
        self.statement = statement


Batch = InsertRows | UpdateRows


@functools.lru_cache(maxsize=4096)
def combine_batches(
    batches: tuple[Batch, ...],
    required: UpdateRows | None = None,
    change: ChangeReturning | None = None,
) -> str:
    """Combine batches for distinct tables into one PostgreSQL statement, a chain of CTEs.

    The parameters are those of the batches, then of `required`, then of `change`. All parts see
    the tables as they were before the statement, and foreign keys are checked after it, so the
    order of the tables does not matter. If the row that `required` updates does not exist, the
    statement divides by zero, and PostgreSQL discards all of it.
    """
    texts: list[str] = []
    first = 0
    for batch in batches:
        texts.append(shift_parameters(batch.postgres, first))
        first += len(batch.columns)
    last = (
        texts.pop() if required is None and change is None else "SELECT 1 / count(*) FROM required"
    )
    parts = [f"part{index} AS ({text})" for index, text in enumerate(texts)]
    if required is not None:
        parts.append(f"required AS ({shift_parameters(required.postgres, first)} RETURNING 1)")
        first += len(required.columns)
    if change is not None:
        parts.append(f"changed AS ({shift_parameters(change.statement.postgres, first)})")
        # The subquery must be evaluated (and so divide by zero) even if `change` changed no row.
        counted = "(SELECT 1)" if required is None else f"({last})"
        last = f"SELECT changed.* FROM {counted} AS checked(n) LEFT JOIN changed ON checked.n = 1"
    return f"WITH {', '.join(parts)} {last}" if parts else last


def to_columns(batch: Batch, rows: Iterable[RowValues]) -> list[tuple[Any, ...]]:
    """Transpose rows into one list per column, the arguments of PostgreSQL's unnest."""
    columns = list(zip(*rows, strict=True))
    if len(columns) != len(batch.columns):
        raise ValueError(f"rows have {len(columns)} values for {len(batch.columns)} columns")
    return columns
