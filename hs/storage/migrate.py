"""Brings a database's schema up to date from numbered files of SQL, one text for both engines.

A file's first line says its phase: `-- pre` runs while processes of the last release still
work, `-- post` once none is left. What is written in it is PostgreSQL's SQL; SQLite gets it
with the types translated. `CREATE STREAM name;` makes what `Tx.next_ids` counts with. A line
`-- only postgres` or `-- only sqlite` above a statement keeps it to one engine.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Final, Literal

import attrs

from hs.storage.database import Database, DatabaseError, Tx
from hs.storage.dialect import Engine

Phase = Literal["pre", "post"]

_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_CREATE_LOG: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL
)
"""
_APPLIED: Final = "SELECT number FROM schema_migrations"
_RECORD: Final = "INSERT INTO schema_migrations (number, name) VALUES ($1, $2)"


@attrs.frozen
class Migration:
    """One file of the schema."""

    number: int
    name: str
    phase: Phase
    text: str

    @classmethod
    def parse(cls, filename: str, text: str) -> "Migration":
        """Read a file `0001_name.sql` whose first line is its phase."""
        match = _NAME.fullmatch(filename)
        first, _, _ = text.partition("\n")
        if match is None or first.strip() not in ("-- pre", "-- post"):
            raise ValueError(f"{filename}: wants a name 0001_name.sql and a first line -- pre")
        phase: Phase = "pre" if first.strip() == "-- pre" else "post"
        return cls(int(match[1]), match[2], phase, text)


def bundled_migrations() -> list[Migration]:
    """Read the files that come with this release, in their order."""
    folder = resources.files("hs.storage") / "schema"
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return in_order([Migration.parse(file.name, file.read_text("utf-8")) for file in files])


def in_order(migrations: Sequence[Migration]) -> list[Migration]:
    """Sort by number; two files with one number are a mistake."""
    ordered = sorted(migrations, key=lambda migration: migration.number)
    for one, other in itertools.pairwise(ordered):
        if one.number == other.number:
            raise ValueError(f"two migrations are numbered {one.number:04}")
    return ordered


async def pending(database: Database, migrations: Sequence[Migration]) -> list[Migration]:
    """Name the migrations that this database still lacks, without changing it."""
    try:
        applied = await database.read(_applied)
    except DatabaseError:
        applied = set()
    return [migration for migration in migrations if migration.number not in applied]


async def migrate(
    database: Database, migrations: Sequence[Migration], phases: Sequence[Phase]
) -> list[Migration]:
    """Apply what is lacking of these phases, each in its own transaction; return what was.

    Several processes may do this at once; each migration is applied by one of them.
    """
    await database.write(_create_log)
    return [
        migration
        for migration in migrations
        if migration.phase in phases and await database.write(_apply, migration)
    ]


async def _applied(tx: Tx) -> set[int]:
    return {row[0] for row in await tx.fetch(_APPLIED)}


async def _create_log(tx: Tx) -> None:
    if tx.dialect.engine == "postgres":
        # CREATE IF NOT EXISTS by two at once is an error; this lock lets one pass at a time.
        await tx.execute("SELECT pg_advisory_xact_lock(7237118)")
    await tx.execute(_CREATE_LOG)


async def _apply(tx: Tx, migration: Migration) -> bool:
    if tx.dialect.engine == "postgres":
        # LOCK takes no snapshot, so what others did before we got it is seen below.
        await tx.execute("LOCK TABLE schema_migrations IN EXCLUSIVE MODE")
    if migration.number in await _applied(tx):
        return False
    for statement in statements_for(migration.text, tx.dialect.engine):
        await tx.execute(statement)
    await tx.execute(_RECORD, migration.number, migration.name)
    return True


def statements_for(text: str, engine: Engine) -> list[str]:
    """Split a file into one engine's statements."""
    statements = []
    for statement in split_statements(text):
        only = re.search(r"^\s*-- only (\w+)\s*$", statement, re.MULTILINE)
        if only is None or only[1] == engine:
            statements += _TRANSLATORS[engine](statement)
    return statements


_TOKEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|\bBEGIN\b.*?\bEND\b|;", re.DOTALL)


def split_statements(text: str) -> Iterator[str]:
    """Split at semicolons, but those in comments, strings, dollar quotes and triggers."""
    start = 0
    for token in _TOKEN.finditer(text):
        if token[0] == ";":
            yield text[start : token.start()].strip()
            start = token.end()
    rest = re.sub(r"--[^\n]*", "", text[start:])
    if rest.strip():
        raise ValueError(f"no semicolon after: {rest.strip()[:60]}")


_SQLITE_WORDS: Final = (
    (r"BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT"),
    (r"BIGINT|SMALLINT|INT4|INT8", "INTEGER"),
    (r"BYTEA", "BLOB"),
    (r"DOUBLE PRECISION", "REAL"),
)


_CREATE_STREAM_IDS: Final = """
CREATE TABLE IF NOT EXISTS stream_ids (
    stream TEXT NOT NULL PRIMARY KEY,
    last_id INTEGER NOT NULL
) STRICT
"""
_STREAM = re.compile(r"^\s*CREATE STREAM (\w+)\s*$", re.MULTILINE)


def _for_postgres(statement: str) -> list[str]:
    if stream := _STREAM.search(statement):
        return [f"CREATE SEQUENCE {stream[1]}_ids AS BIGINT"]
    return [statement]


def _for_sqlite(statement: str) -> list[str]:
    if stream := _STREAM.search(statement):
        return [
            _CREATE_STREAM_IDS,
            f"INSERT INTO stream_ids (stream, last_id) VALUES ('{stream[1]}', 0)",
        ]
    for word, ours in _SQLITE_WORDS:
        statement = re.sub(rf"\b(?:{word})\b", ours, statement)
    if re.search(r"^\s*CREATE TABLE", statement, re.MULTILINE):
        # Without STRICT SQLite would take text where PostgreSQL wants a number.
        statement += " STRICT"
    return [statement]


_TRANSLATORS: Final = {"postgres": _for_postgres, "sqlite": _for_sqlite}
