"""The named differences between the two engines, so that each SQL statement is written once.

Write PostgreSQL's form (`$1` parameters, RETURNING, ON CONFLICT … DO UPDATE); where the engines
differ, build the text with a function of `Dialect` inside `sql(lambda d: f"…")`. SQLite takes
lists as JSON text, which the SQLite Tx makes of any list argument by itself.
"""

import re
from collections.abc import Callable
from typing import Final, Literal, Protocol

import attrs

Engine = Literal["sqlite", "postgres"]


class Dialect(Protocol):
    """How one engine says what the other says differently; every function returns SQL text."""

    @property
    def engine(self) -> Engine: ...

    def any_of(self, column: str, number: int, type_: str) -> str:
        """Say that a column is one of the list in parameter `$number` (type: `text`, `bigint`)."""

    def none_of(self, column: str, number: int, type_: str) -> str:
        """Say that a column is none of the list in parameter `$number`."""

    def unnest(self, alias: str, columns: str, first: int = 1) -> str:
        """Make a table, to be joined, of lists of equal length in `$first`, `$first+1`, ….

        `columns` names and types them: `unnest("wanted", "type text, state_key text")`.
        """

    def greatest(self, left: str, right: str) -> str:
        """Take the larger of two values, neither of which may be NULL."""

    def least(self, left: str, right: str) -> str:
        """Take the smaller of two values, neither of which may be NULL."""

    def row_lock(self) -> str:
        """End a SELECT whose rows stay locked until the unit is over (nothing on SQLite)."""

    def entries(self) -> str:
        """Name the table of words `e`, joined to what else a full-text search needs."""

    def has_words(self, number: int) -> str:
        """Say that `e` matches the full-text query in parameter `$number`."""

    def closeness(self, number: int) -> str:
        """Say how well `e` matches that query; more is better."""

    def words(self, number: int) -> str:
        """Make what the column of words holds of the text in parameter `$number`."""


class PostgresDialect:
    """PostgreSQL's words."""

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

    def greatest(self, left: str, right: str) -> str:
        return f"greatest({left}, {right})"

    def least(self, left: str, right: str) -> str:
        return f"least({left}, {right})"

    def row_lock(self) -> str:
        return "FOR UPDATE"

    def entries(self) -> str:
        return "search_entries e"

    def has_words(self, number: int) -> str:
        return f"e.words @@ ${number}::text::tsquery"

    def closeness(self, number: int) -> str:
        return f"ts_rank(e.words, ${number}::text::tsquery, 1)::float8"

    def words(self, number: int) -> str:
        return f"${number}::text::tsvector"


class SqliteDialect:
    """SQLite's words."""

    engine: Final = "sqlite"

    def any_of(self, column: str, number: int, type_: str) -> str:
        _refuse_bytes_in_json(type_)
        return f"{column} IN (SELECT value FROM json_each(${number}))"

    def none_of(self, column: str, number: int, type_: str) -> str:
        _refuse_bytes_in_json(type_)
        return f"{column} NOT IN (SELECT value FROM json_each(${number}))"

    def unnest(self, alias: str, columns: str, first: int = 1) -> str:
        parsed = parse_columns(columns)
        for column in parsed:
            _refuse_bytes_in_json(column.type)
        # Without LIMIT the planner may take the list apart and go through it once for each row
        # of the table it is joined to.
        others = "".join(
            f", json_extract(${n}, '$[' || _{first}.key || ']') AS {c.name}"
            for n, c in enumerate(parsed[1:], first + 1)
        )
        values = f"_{first}.value AS {parsed[0].name}{others}"
        return f"(SELECT {values} FROM json_each(${first}) AS _{first} LIMIT -1) AS {alias}"

    def greatest(self, left: str, right: str) -> str:
        return f"max({left}, {right})"

    def least(self, left: str, right: str) -> str:
        return f"min({left}, {right})"

    def row_lock(self) -> str:
        return ""

    def entries(self) -> str:
        return "search_words JOIN search_entries e ON e.stream_id = search_words.rowid"

    def has_words(self, number: int) -> str:
        return f"search_words MATCH ${number}"

    def closeness(self, number: int) -> str:
        return "-bm25(search_words)"

    def words(self, number: int) -> str:
        return f"${number}"


POSTGRES: Final = PostgresDialect()
SQLITE: Final = SqliteDialect()


class Statement:
    """One statement, its text made once for each engine."""

    __slots__ = ("postgres", "sqlite")

    def __init__(self, postgres: str, sqlite: str) -> None:
        self.postgres = postgres
        self.sqlite = sqlite

    def __repr__(self) -> str:
        return f"Statement({self.postgres!r})"


Query = str | Statement


def sql(write: Callable[[Dialect], str]) -> Statement:
    """Make a statement that needs words of the dialect; module constants only."""
    return Statement(write(POSTGRES), numbered(write(SQLITE)))


_DOLLAR = re.compile(r"\$(\d+)")
_numbered: dict[str, str] = {}
_NUMBERED_MAX: Final = 4096


def numbered(text: str) -> str:
    """Write `$1` as SQLite's `?1`, which binds by number and not by order of appearance."""
    found = _numbered.get(text)
    if found is None:
        if len(_numbered) >= _NUMBERED_MAX:
            _numbered.clear()
        found = _numbered[text] = _DOLLAR.sub(r"?\1", text)
    return found


def shifted(text: str, by: int) -> str:
    """Write `$1` as the parameter that many further on."""
    return _DOLLAR.sub(lambda found: f"${int(found[1]) + by}", text) if by else text


@attrs.frozen
class Column:
    """Name and PostgreSQL type of one column of a batch."""

    name: str
    type: str


def parse_columns(columns: str) -> tuple[Column, ...]:
    """Read `"stream_id bigint, room_id text"`."""
    parsed = []
    for part in columns.split(","):
        name, _, type_ = part.strip().partition(" ")
        if not name or not type_.strip():
            raise ValueError(f"not a column with its type: {part!r}")
        parsed.append(Column(name, type_.strip()))
    return tuple(parsed)


def _refuse_bytes_in_json(type_: str) -> None:
    if type_.lower() == "bytea":
        raise ValueError("SQLite has no lists of bytes: look rows up by text or number")
