"""The differences between the two engines, each with a name, so that SQL is written once.

Statements are written in PostgreSQL's form (`$1` parameters, RETURNING, ON CONFLICT … DO UPDATE).
Where the engines differ, build the text with a method of `Dialect` inside `sql(lambda d: f"…")`.
The Tx of SQLite passes every list argument as JSON text.
"""

import re
from collections.abc import Callable
from typing import Final, Literal, Protocol

import attrs

Engine = Literal["sqlite", "postgres"]


class Dialect(Protocol):
    """The SQL fragments that differ between engines; every method returns SQL text."""

    @property
    def engine(self) -> Engine: ...

    def any_of(self, column: str, number: int, type_: str) -> str:
        """Match a column against the list in parameter `$number` (type `text` or `bigint`)."""

    def none_of(self, column: str, number: int, type_: str) -> str:
        """Match a column that is not in the list in parameter `$number`."""

    def unnest(self, alias: str, columns: str, first: int = 1) -> str:
        """Turn lists of equal length in `$first`, `$first+1`, … into a table to join.

        `columns` gives its names and types: `unnest("pairs", "type text, state_key text")`.
        """

    def json_rows(self, alias: str, columns: str, number: int) -> str:
        """Turn the JSON text in `$number`, an array of arrays, into a table of many rows."""

    def greatest(self, left: str, right: str) -> str:
        """Select the larger of two non-NULL values."""

    def least(self, left: str, right: str) -> str:
        """Select the smaller of two non-NULL values."""

    def row_lock(self) -> str:
        """Lock the rows of a SELECT until the transaction ends (empty on SQLite)."""

    def search_table(self) -> str:
        """Name the full-text search table and its joins; `e` has the columns of the events."""

    def search_match(self, number: int) -> str:
        """Match rows of `e` against the full-text query in parameter `$number`."""

    def search_rowid(self) -> str:
        """Name the stream ID of a matching entry, in the order of which the engine finds them."""

    def search_rank(self, number: int) -> str:
        """Rank rows of `e` for the query in parameter `$number`; higher is better."""


class PostgresDialect:
    """The SQL of PostgreSQL."""

    engine: Final = "postgres"

    def any_of(self, column: str, number: int, type_: str) -> str:
        return f"{column} = ANY(${number}::{type_}[])"

    def none_of(self, column: str, number: int, type_: str) -> str:
        return f"{column} <> ALL(${number}::{type_}[])"

    def unnest(self, alias: str, columns: str, first: int = 1) -> str:
        parsed = parse_columns(columns)
        lists = ", ".join(f"${n}::{c.type}[]" for n, c in enumerate(parsed, first))
        names = ", ".join(column.name for column in parsed)
        return f"unnest({lists}) AS {alias}({names})"

    def json_rows(self, alias: str, columns: str, number: int) -> str:
        values = ", ".join(
            f"(value->>{n})::{c.type} AS {c.name}" for n, c in enumerate(parse_columns(columns))
        )
        return f"(SELECT {values} FROM json_array_elements(${number}::text::json)) AS {alias}"

    def greatest(self, left: str, right: str) -> str:
        return f"greatest({left}, {right})"

    def least(self, left: str, right: str) -> str:
        return f"least({left}, {right})"

    def row_lock(self) -> str:
        return "FOR UPDATE"

    def search_table(self) -> str:
        return "search_entries e"

    def search_match(self, number: int) -> str:
        return f"e.words @@ ${number}::text::tsquery"

    def search_rowid(self) -> str:
        return "e.stream_id"

    def search_rank(self, number: int) -> str:
        return f"ts_rank(e.words, ${number}::text::tsquery, 1)::float8"


class SqliteDialect:
    """The SQL of SQLite."""

    engine: Final = "sqlite"

    def any_of(self, column: str, number: int, type_: str) -> str:
        _reject_bytea(type_)
        return f"{column} IN (SELECT value FROM json_each(${number}))"

    def none_of(self, column: str, number: int, type_: str) -> str:
        _reject_bytea(type_)
        return f"{column} NOT IN (SELECT value FROM json_each(${number}))"

    def unnest(self, alias: str, columns: str, first: int = 1) -> str:
        parsed = parse_columns(columns)
        for column in parsed:
            _reject_bytea(column.type)
        # LIMIT keeps the planner from flattening the subquery, which may make it scan the list
        # once for each row of the joined table.
        further_columns = "".join(
            f", json_extract(${n}, '$[' || _{first}.key || ']') AS {c.name}"
            for n, c in enumerate(parsed[1:], first + 1)
        )
        values = f"_{first}.value AS {parsed[0].name}{further_columns}"
        return f"(SELECT {values} FROM json_each(${first}) AS _{first} LIMIT -1) AS {alias}"

    def json_rows(self, alias: str, columns: str, number: int) -> str:
        values = ", ".join(
            f"json_extract(value, '$[{n}]') AS {c.name}"
            for n, c in enumerate(parse_columns(columns))
        )
        return f"(SELECT {values} FROM json_each(${number})) AS {alias}"

    def greatest(self, left: str, right: str) -> str:
        return f"max({left}, {right})"

    def least(self, left: str, right: str) -> str:
        return f"min({left}, {right})"

    def row_lock(self) -> str:
        return ""

    def search_table(self) -> str:
        return "search_words JOIN events e ON e.stream_id = search_words.rowid"

    def search_match(self, number: int) -> str:
        return f"search_words MATCH ${number}"

    def search_rowid(self) -> str:
        return "search_words.rowid"

    def search_rank(self, number: int) -> str:
        return "-bm25(search_words)"


POSTGRES: Final = PostgresDialect()
SQLITE: Final = SqliteDialect()


class Statement:
    """An SQL statement in the form of each engine."""

    __slots__ = ("postgres", "sqlite")

    def __init__(self, postgres: str, sqlite: str) -> None:
        self.postgres = postgres
        self.sqlite = sqlite

    def __repr__(self) -> str:
        return f"Statement({self.postgres!r})"


Query = str | Statement


def sql(write: Callable[[Dialect], str]) -> Statement:
    """Build a statement with dialect-specific parts; for module constants only."""
    return Statement(write(POSTGRES), sqlite_parameters(write(SQLITE)))


_DOLLAR = re.compile(r"\$(\d+)")
_sqlite_texts: dict[str, str] = {}
_SQLITE_TEXTS_MAX: Final = 4096


def sqlite_parameters(text: str) -> str:
    """Rewrite `$1` as SQLite's `?1`, which binds by number and not by order of appearance."""
    sqlite_text = _sqlite_texts.get(text)
    if sqlite_text is None:
        if len(_sqlite_texts) >= _SQLITE_TEXTS_MAX:
            _sqlite_texts.clear()
        sqlite_text = _sqlite_texts[text] = _DOLLAR.sub(r"?\1", text)
    return sqlite_text


def shift_parameters(text: str, by: int) -> str:
    """Add `by` to the number of every parameter: `$1` becomes `$(1 + by)`."""
    return _DOLLAR.sub(lambda match: f"${int(match[1]) + by}", text) if by else text


@attrs.frozen
class Column:
    """A column of a batch: its name and PostgreSQL type."""

    name: str
    type: str


def parse_columns(columns: str) -> tuple[Column, ...]:
    """Parse a list of columns with types: `"stream_id bigint, room_id text"`."""
    parsed = []
    for part in columns.split(","):
        name, _, type_ = part.strip().partition(" ")
        if not name or not type_.strip():
            raise ValueError(f"expected a column name and type, not {part!r}")
        parsed.append(Column(name, type_.strip()))
    return tuple(parsed)


def _reject_bytea(type_: str) -> None:
    if type_.lower() == "bytea":
        raise ValueError("lists of bytea are not supported on SQLite; select by text or number")
