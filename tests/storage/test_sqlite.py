"""SQLite's threads: durability, interruption, locking and closing."""

import os
import sqlite3
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from hs.storage.database import DatabaseError, DatabaseRefusal, DatabaseUnavailable, Tx
from hs.storage.sqlite.threads import open_sqlite

SLOW_COUNT = """
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


async def test_written_rows_survive_closing_the_database(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        await database.write(add)

    async with open_sqlite(tmp_path / "a.db") as database:
        assert await database.read(count) == 1


async def test_unit_that_awaits_something_else_than_its_tx_is_an_error(tmp_path: Path) -> None:
    async def sleep(_: Tx) -> None:
        await trio.lowlevel.checkpoint()

    async with open_sqlite(tmp_path / "a.db") as database:
        with pytest.raises(RuntimeError, match="must await only its tx"):
            await database.read(sleep)


async def test_write_in_a_read_unit_is_an_error(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        with pytest.raises(DatabaseError, match="readonly"):
            await database.read(add)


async def test_cancelled_long_read_is_interrupted(tmp_path: Path) -> None:
    async def read_long(tx: Tx) -> int:
        number: int = await tx.fetchval(SLOW_COUNT)
        return number

    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        with trio.fail_after(60), trio.move_on_after(0.05) as scope:
            await database.read_long(read_long)

        assert scope.cancelled_caught
        assert await database.read_long(count) == 0


async def test_long_reads_do_not_delay_short_reads(tmp_path: Path) -> None:
    async def read_long(tx: Tx) -> None:
        await tx.fetchval(SLOW_COUNT)

    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(database.read_long, read_long)
            with trio.fail_after(60):
                assert await database.read(count) == 0
            nursery.cancel_scope.cancel()


async def test_closed_database_is_unavailable(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)

    with pytest.raises(DatabaseUnavailable, match="closed"):
        await database.read(count)


async def test_write_is_unavailable_while_another_process_holds_the_lock(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db", busy_timeout_ms=20) as database:
        await database.write(create)
        other_process = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other_process.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await database.write(add)
        other_process.execute("ROLLBACK")
        other_process.close()

        await database.write(add)
        assert await database.read(count) == 1


async def test_closed_database_leaves_only_its_main_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(40)]
    for path in paths:
        async with open_sqlite(path) as database:
            await database.write(create)

    assert sorted(await trio.to_thread.run_sync(os.listdir, tmp_path)) == sorted(
        path.name for path in paths
    )


async def test_damaged_file_is_unavailable_and_not_a_bug(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_sqlite(path) as database:
        await database.write(create)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))

    async with open_sqlite(path) as database:
        with pytest.raises(DatabaseRefusal, match="malformed"):
            await database.read(count)
