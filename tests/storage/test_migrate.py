"""Migrations are applied once, in order, each by one process."""

import re
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.aio import Bridge
from hs.storage.connect import DatabaseConfig, check_pending
from hs.storage.database import (
    Database,
    DatabaseError,
    DatabaseUnavailable,
    ForeignDatabase,
    Tx,
)
from hs.storage.migrate import (
    Migration,
    bundled_migrations,
    migrate,
    pending_migrations,
    sort_migrations,
    split_statements,
    statements_for,
)
from hs.storage.sqlite.threads import open_sqlite

FIRST = Migration.parse("9001_first.sql", "-- pre\nCREATE TABLE first (x BIGINT NOT NULL);\n")
BROKEN = Migration.parse(
    "9002_broken.sql", "-- pre\nCREATE TABLE half (x BIGINT);\nCREATE TABLE first (y BIGINT);\n"
)
OWN = bundled_migrations()
LATER = Migration.parse("9003_later.sql", "-- post\nINSERT INTO first VALUES (1);\n")


async def count_first(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM first")
    return number


async def count_half(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM half")
    return number


async def test_migration_is_applied_once_in_its_phase(database: Database) -> None:
    first = await migrate(database, [*OWN, FIRST, LATER], ["pre"])
    still_pending = await pending_migrations(database, [*OWN, FIRST, LATER])
    second = await migrate(database, [*OWN, FIRST, LATER], ["pre", "post"])
    third = await migrate(database, [*OWN, FIRST, LATER], ["pre", "post"])

    assert (first, still_pending, second, third) == ([FIRST], [LATER], [LATER], [])
    assert await database.read(count_first) == 1


async def test_failed_migration_is_rolled_back_and_stops_the_rest(database: Database) -> None:
    with pytest.raises(DatabaseError, match="first"):
        await migrate(database, [*OWN, FIRST, BROKEN, LATER], ["pre", "post"])

    assert await pending_migrations(database, [*OWN, FIRST, BROKEN, LATER]) == [BROKEN, LATER]
    with pytest.raises(DatabaseError, match="half"):
        await database.read(count_half)


async def test_concurrent_processes_apply_each_migration_once(database: Database) -> None:
    applied: list[Migration] = []

    async def run() -> None:
        applied.extend(await migrate(database, [*OWN, FIRST, LATER], ["pre", "post"]))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(run)

    assert sort_migrations(applied) == [FIRST, LATER]
    assert await database.read(count_first) == 1


async def test_schema_of_a_newer_release_is_refused(database: Database) -> None:
    await migrate(database, [*OWN, FIRST], ["pre"])

    with pytest.raises(ForeignDatabase, match="9001 first"):
        await pending_migrations(database, OWN)
    with pytest.raises(ForeignDatabase, match="9001 first"):
        await migrate(database, OWN, ["pre", "post"])


async def test_unreachable_database_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        pass

    with pytest.raises(DatabaseUnavailable):
        await pending_migrations(database, bundled_migrations())


async def test_pending_post_migration_holds_up_later_ones(database: Database) -> None:
    last = Migration.parse("9004_last.sql", "-- pre\nCREATE TABLE last (x BIGINT);\n")

    assert await migrate(database, [*OWN, FIRST, LATER, last], ["pre"]) == [FIRST]
    assert await migrate(database, [*OWN, FIRST, LATER, last], ["pre", "post"]) == [LATER, last]


def test_migrations_that_take_away_from_the_previous_release_are_marked_post() -> None:
    destructive = re.compile(r"^\s*(DROP TABLE|ALTER TABLE .* (DROP COLUMN|RENAME)) ", re.MULTILINE)

    found = [file for file in bundled_migrations() if destructive.search(file.text)]

    assert {file.phase for file in found} == {"post"}


def files_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_checking_a_missing_file_creates_nothing(tmp_path: Path, bridge: Bridge) -> None:
    config = DatabaseConfig("sqlite3", {"database": str(tmp_path / "a.db")})

    assert await check_pending(config, bridge) == bundled_migrations()
    assert files_in(tmp_path) == []


async def test_fixture_applies_all_bundled_migrations(database: Database) -> None:
    assert bundled_migrations() != []
    assert await pending_migrations(database, bundled_migrations()) == []


def test_semicolons_in_strings_comments_and_bodies_do_not_split_statements() -> None:
    text = "-- pre; really\nSELECT 'a;''b';\nDO $x$ a; b; $x$;\n-- the end; at last\n"

    parts = list(split_statements(text))

    assert parts == ["-- pre; really\nSELECT 'a;''b'", "DO $x$ a; b; $x$"]


def test_statement_can_be_restricted_to_one_engine() -> None:
    text = "-- only postgres\nCREATE INDEX a ON b USING gin (c);\n-- only sqlite\nSELECT 1;\n"

    assert "gin" in statements_for(text, "postgres")[0]
    assert statements_for(text, "sqlite") == ["-- only sqlite\nSELECT 1"]


def test_types_are_translated_for_sqlite() -> None:
    text = "CREATE TABLE t (a BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, b BYTEA);"

    assert statements_for(text, "postgres") == [text[:-1]]
    assert statements_for(text, "sqlite") == [
        "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b BLOB) STRICT"
    ]


def test_missing_semicolon_is_rejected() -> None:
    with pytest.raises(ValueError, match="SELECT 2"):
        list(split_statements("SELECT 1; SELECT 2"))


@given(st.lists(st.integers(1, 40), unique=True))
def test_migrations_are_sorted_by_number(numbers: list[int]) -> None:
    files = [Migration(number, "x", "pre", "") for number in numbers]

    assert [file.number for file in sort_migrations(files)] == sorted(numbers)


def test_duplicate_numbers_are_rejected() -> None:
    with pytest.raises(ValueError, match="0007"):
        sort_migrations([Migration(7, "a", "pre", ""), Migration(7, "b", "pre", "")])


def test_file_without_phase_is_rejected() -> None:
    with pytest.raises(ValueError, match="-- pre"):
        Migration.parse("0001_x.sql", "CREATE TABLE t (x TEXT);")
