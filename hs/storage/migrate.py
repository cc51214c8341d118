"""Schema migrations: numbered SQL files, written once for both engines.

- The first line of a file states its phase. `-- pre` migrations run while processes of the
  previous release still work on the database, `-- post` migrations after the last of them ended.
- Files contain PostgreSQL's SQL; for SQLite the types are translated. `CREATE STREAM name;`
  declares a stream for `Tx.next_ids`. A line `-- only postgres` or `-- only sqlite` above a
  statement restricts it to one engine.
- Each migration runs in one transaction, which also records its number in `schema_migrations`. If
  it fails, nothing of it remains, and later migrations are not tried. Migrations are applied in
  their order, so a `-- post` migration that is pending holds up the `-- pre` ones after it.
- A database with a migration that this release does not have belongs to a newer release: it is
  refused and left untouched.
- Several processes may migrate at once. On PostgreSQL they take a lock before they look whether a
  migration is applied, and before their transaction takes its snapshot, so each sees what the
  holder before it committed. On SQLite there is one writer at a time.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Final, Literal

import attrs

from hs.storage.database import Database, ForeignDatabase, Tx
from hs.storage.dialect import Engine, Statement

Phase = Literal["pre", "post"]

_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_CREATE_LOG: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL
)
"""
_APPLIED: Final = "SELECT number, name FROM schema_migrations"
TABLE_EXISTS: Final = Statement(
    "SELECT 1 WHERE to_regclass($1::text) IS NOT NULL",
    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1",
)
_RECORD: Final = "INSERT INTO schema_migrations (number, name) VALUES ($1, $2)"


@attrs.frozen
class Migration:
    """A migration: one SQL file."""

    number: int
    name: str
    phase: Phase
    text: str

    @classmethod
    def parse(cls, filename: str, text: str) -> "Migration":
        """Parse a file named like `0001_name.sql` whose first line is its phase.

        Raises: ValueError.
        """
        match = _NAME.fullmatch(filename)
        first, _, _ = text.partition("\n")
        if match is None or first.strip() not in ("-- pre", "-- post"):
            raise ValueError(
                f"{filename}: the name must be like 0001_name.sql, and the first line"
                " must be -- pre or -- post"
            )
        phase: Phase = "pre" if first.strip() == "-- pre" else "post"
        return cls(int(match[1]), match[2], phase, text)


def bundled_migrations() -> list[Migration]:
    """Load the migrations of this release, sorted by number."""
    folder = resources.files("hs.storage") / "schema"
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sort_migrations([Migration.parse(file.name, file.read_text("utf-8")) for file in files])


def sort_migrations(migrations: Sequence[Migration]) -> list[Migration]:
    """Sort migrations by number.

    Raises: ValueError, if two have the same number.
    """
    ordered = sorted(migrations, key=lambda migration: migration.number)
    for migration, following in itertools.pairwise(ordered):
        if migration.number == following.number:
            raise ValueError(f"two migrations have the number {migration.number:04}")
    return ordered


async def pending_migrations(
    database: Database, migrations: Sequence[Migration]
) -> list[Migration]:
    """Return the migrations that are not applied yet, without changing the database.

    Raises: ForeignDatabase, if the database belongs to a newer release.
    """
    applied = await database.read(_check_applied, migrations)
    return [migration for migration in migrations if migration.number not in applied]


async def migrate(
    database: Database, migrations: Sequence[Migration], phases: Sequence[Phase]
) -> list[Migration]:
    """Apply the pending migrations of some phases; return those that this call applied.

    Each runs in its own transaction. Several processes may call this at the same time: every
    migration is applied by one of them. The first one of another phase ends the call.

    Raises: ForeignDatabase, if the database belongs to a newer release.
    """
    pending = await pending_migrations(database, migrations)
    await database.write(_create_log)
    return [
        migration
        for migration in itertools.takewhile(lambda item: item.phase in phases, pending)
        if await database.write(_apply, migration)
    ]


async def _check_applied(tx: Tx, migrations: Sequence[Migration]) -> set[int]:
    """Return the numbers of the applied migrations. Raises: ForeignDatabase."""
    if not await tx.fetchval(TABLE_EXISTS, "schema_migrations"):
        return set()
    applied = await _applied(tx)
    unknown = sorted(applied.keys() - {migration.number for migration in migrations})
    if unknown:
        latest = f"{unknown[-1]:04} {applied[unknown[-1]]}"
        raise ForeignDatabase(
            f"a newer version of hs has migrated this database (migration {latest}): upgrade hs,"
            " or restore a backup from before the migration"
        )
    return set(applied)


async def _applied(tx: Tx) -> dict[int, str]:
    return {row[0]: row[1] for row in await tx.fetch(_APPLIED)}


async def _create_log(tx: Tx) -> None:
    if tx.dialect.engine == "postgres":
        # Concurrent CREATE TABLE IF NOT EXISTS can fail; the lock admits one process at a time.
        await tx.execute("SELECT pg_advisory_xact_lock(7237118)")
    await tx.execute(_CREATE_LOG)


async def _apply(tx: Tx, migration: Migration) -> bool:
    if tx.dialect.engine == "postgres":
        # LOCK TABLE takes no snapshot, so the SELECT below sees what the previous holder committed.
        await tx.execute("LOCK TABLE schema_migrations IN EXCLUSIVE MODE")
    if migration.number in await _applied(tx):
        return False
    for statement in statements_for(migration.text, tx.dialect.engine):
        await tx.execute(statement)
    await tx.execute(_RECORD, migration.number, migration.name)
    return True


def statements_for(text: str, engine: Engine) -> list[str]:
    """Split a file into the statements for one engine, translated to its SQL."""
    statements = []
    for statement in split_statements(text):
        only = re.search(r"^\s*-- only (\w+)\s*$", statement, re.MULTILINE)
        if only is None or only[1] == engine:
            statements += _TRANSLATORS[engine](statement)
    return statements


_TOKEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|\bBEGIN\b.*?\bEND\b|;", re.DOTALL)


def split_statements(text: str) -> Iterator[str]:
    """Split at semicolons outside comments, strings, dollar quotes and trigger bodies.

    Raises: ValueError, if the last statement has no semicolon.
    """
    start = 0
    for token in _TOKEN.finditer(text):
        if token[0] == ";":
            yield text[start : token.start()].strip()
            start = token.end()
    rest = re.sub(r"--[^\n]*", "", text[start:])
    if rest.strip():
        raise ValueError(f"missing semicolon after: {rest.strip()[:60]}")


_SQLITE_TYPES: Final = (
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
    for postgres_type, sqlite_type in _SQLITE_TYPES:
        statement = re.sub(rf"\b(?:{postgres_type})\b", sqlite_type, statement)
    if re.search(r"^\s*CREATE TABLE", statement, re.MULTILINE):
        # Without STRICT, SQLite would accept text in a column of numbers.
        statement += " STRICT"
    return [statement]


_TRANSLATORS: Final = {"postgres": _for_postgres, "sqlite": _for_sqlite}
