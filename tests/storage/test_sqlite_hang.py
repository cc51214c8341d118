"""A disk that hangs: units on SQLite end within a bound, and work goes on when it answers."""

import logging
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from hs.storage.database import CommitUnknown, Database, DatabaseHung, Tx
from hs.storage.sqlite.progress import ThreadProgress
from hs.storage.sqlite.threads import READERS, open_sqlite
from hs.storage.sqlite.tx import connect

HANG_S = 2.0
DEADLINE_S = 30.0
COUNT_FOR_LONG = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
SELECT count(*) FROM n
"""


class HungDisk:
    """Units that wait in their thread, as for a disk, until `answer` is called."""

    def __init__(self) -> None:
        self._answers = threading.Event()

    def answer(self) -> None:
        self._answers.set()

    async def write(self, tx: Tx) -> None:
        await tx.execute("INSERT INTO t VALUES (1)")
        self._answers.wait(DEADLINE_S)

    async def read(self, tx: Tx) -> int:
        self._answers.wait(DEADLINE_S)
        return await count(tx)


async def create(tx: Tx) -> None:
    await tx.execute("CREATE TABLE t (x INTEGER NOT NULL) STRICT")


async def add(tx: Tx) -> None:
    await tx.execute("INSERT INTO t VALUES (2)")


async def count(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM t")
    return number


async def wait_until_it_works(database: Database) -> None:
    with trio.fail_after(DEADLINE_S):
        while True:
            if database.load().fault is None:
                return
            await trio.sleep(0.01)


async def test_writes_end_and_only_the_running_one_has_an_unknown_outcome(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = HungDisk()
    errors: list[type[BaseException]] = []

    async def write_to_hung_disk() -> None:
        with pytest.raises(CommitUnknown):
            await database.write(disk.write)

    async def write_queued() -> None:
        with pytest.raises(DatabaseHung) as error:
            await database.write(add)
        errors.append(error.type)

    async with open_sqlite(tmp_path / "a.db", hang_s=HANG_S) as database:
        await database.write(create)
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_to_hung_disk)
                await trio.testing.wait_all_tasks_blocked(0.05)
                for _ in range(5):
                    nursery.start_soon(write_queued)
            with pytest.raises(DatabaseHung):
                await database.write(add)
            assert await database.read(count) == 0
        assert "does not answer" in (database.load().fault or "")

        disk.answer()
        await wait_until_it_works(database)

        await database.write(add)
        assert await database.read(count) == 2
        assert errors == [DatabaseHung] * 5
        assert database.load().connections_used == 0
    levels = [record.levelno for record in caplog.records if "disk of the" in record.message]
    assert levels == [logging.CRITICAL, logging.WARNING]


async def test_reads_end_and_other_threads_go_on(tmp_path: Path) -> None:
    disk = HungDisk()

    async def read_from_hung_disk() -> None:
        with pytest.raises(DatabaseHung):
            await database.read(disk.read)

    async with open_sqlite(tmp_path / "a.db", hang_s=HANG_S) as database:
        await database.write(create)
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_from_hung_disk)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert await database.read(count) == 0
            async with trio.open_nursery() as nursery:
                for _ in range(READERS + 3):
                    nursery.start_soon(read_from_hung_disk)
            await database.write(add)

        disk.answer()
        await wait_until_it_works(database)
        assert await database.read(count) == 1


def test_long_statements_make_progress() -> None:
    conn = connect(":memory:")
    progress = ThreadProgress("reader", conn)
    progress.begin()
    begun_at = progress.ticked_at

    conn.execute(COUNT_FOR_LONG).fetchone()

    assert progress.ticked_at > begun_at
    assert not progress.is_stuck(DEADLINE_S)
    conn.close()


async def test_database_closes_although_a_thread_is_stuck(tmp_path: Path) -> None:
    disk = HungDisk()
    with trio.fail_after(DEADLINE_S):
        async with open_sqlite(tmp_path / "a.db", hang_s=HANG_S) as database:
            await database.write(create)
            with pytest.raises(CommitUnknown):
                await database.write(disk.write)
    disk.answer()
