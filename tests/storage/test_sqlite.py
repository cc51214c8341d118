"""What only SQLite's threads must keep."""

import os
import sqlite3
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from hs.storage.database import DatabaseError, DatabaseUnavailable, Tx
from hs.storage.sqlite.threads import open_sqlite

COUNT_FOR_LONG = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000)
SELECT count(*) FROM n
"""


async def create(tx: Tx) -> None:
    await tx.execute("CREATE TABLE t (x INTEGER NOT NULL) STRICT")


async def add(tx: Tx) -> None:
    await tx.execute("INSERT INTO t VALUES (1)")


async def count(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM t")
    return number


async def test_what_was_written_survives_closing(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        await database.write(add)

    async with open_sqlite(tmp_path / "a.db") as database:
        assert await database.read(count) == 1


async def test_a_unit_that_waits_for_something_else_is_refused(tmp_path: Path) -> None:
    async def sleep(_: Tx) -> None:
        await trio.lowlevel.checkpoint()

    async with open_sqlite(tmp_path / "a.db") as database:
        with pytest.raises(RuntimeError, match="awaits only its tx"):
            await database.read(sleep)


async def test_a_read_cannot_write(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        with pytest.raises(DatabaseError, match="readonly"):
            await database.read(add)


async def test_a_cancelled_long_read_is_interrupted(tmp_path: Path) -> None:
    async def read_long(tx: Tx) -> int:
        number: int = await tx.fetchval(COUNT_FOR_LONG)
        return number

    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        with trio.fail_after(60), trio.move_on_after(0.05) as scope:
            await database.read_long(read_long)

        assert scope.cancelled_caught
        assert await database.read_long(count) == 0


async def test_long_reads_do_not_hold_up_short_ones(tmp_path: Path) -> None:
    async def read_long(tx: Tx) -> None:
        await tx.fetchval(COUNT_FOR_LONG)

    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(database.read_long, read_long)
            with trio.fail_after(60):
                assert await database.read(count) == 0
            nursery.cancel_scope.cancel()


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)

    with pytest.raises(DatabaseUnavailable, match="closed"):
        await database.read(count)


async def test_another_process_with_the_lock_makes_writing_unavailable(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db", busy_timeout_ms=20) as database:
        await database.write(create)
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await database.write(add)
        other.execute("ROLLBACK")
        other.close()

        await database.write(add)
        assert await database.read(count) == 1


async def test_what_is_closed_is_all_in_one_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(40)]
    for path in paths:
        async with open_sqlite(path) as database:
            await database.write(create)

    assert sorted(await trio.to_thread.run_sync(os.listdir, tmp_path)) == sorted(
        path.name for path in paths
    )
