"""The files of SQLite: private, and noticed when they are removed or replaced while in use."""

import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hs.storage.database import CommitUnknown, Database, DatabaseRefusal, DatabaseUnavailable, Tx
from hs.storage.sqlite import threads
from hs.storage.sqlite.threads import open_sqlite


async def create(tx: Tx) -> None:
    await tx.execute("CREATE TABLE t (x INTEGER NOT NULL) STRICT")


async def add(tx: Tx) -> None:
    await tx.execute("INSERT INTO t VALUES (1)")


async def count(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM t")
    return number


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.fixture
def open_umask() -> Iterator[None]:
    """An umask that removes nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
async def test_new_database_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)

        assert modes_in(tmp_path) == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}


async def assert_refused(database: Database, fault: str) -> None:
    with pytest.raises(DatabaseRefusal, match=fault):
        await database.write(add)
    assert fault in (database.load().fault or "")
    assert await database.read(count) == 1


@pytest.mark.parametrize("name", ["a.db", "a.db-wal"])
async def test_writes_are_refused_after_a_file_was_removed(tmp_path: Path, name: str) -> None:
    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        await database.write(add)
        assert database.load().fault is None

        (tmp_path / name).unlink()

        await assert_refused(database, f"{name} was removed")


async def test_writes_are_refused_while_another_file_is_in_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path, aside = tmp_path / "a.db", tmp_path / "aside.db"
    async with open_sqlite(path) as database:
        await database.write(create)
        await database.write(add)

        path.rename(aside)
        shutil.copyfile(aside, path)
        for _ in range(3):
            await assert_refused(database, "a.db was replaced")
        aside.rename(path)
        await database.write(add)

        assert await database.read(count) == 2
        assert database.load().fault is None
    critical, warning = caplog.records
    assert (critical.levelname, warning.levelname) == ("CRITICAL", "WARNING")
    assert "a.db was replaced while it was in use: refusing all writes" in critical.getMessage()


async def test_removed_file_is_logged_without_any_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "WATCH_S", 0.05)
    async with open_sqlite(tmp_path / "a.db"):
        (tmp_path / "a.db").unlink()

        for _ in range(500):
            if not caplog.records:
                await trio.sleep(0.02)
    assert len(caplog.records) == 1


async def test_write_during_which_the_file_disappears_is_not_acknowledged(tmp_path: Path) -> None:
    async def add_and_remove(tx: Tx) -> None:
        await add(tx)
        (tmp_path / "a.db").unlink()

    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)

        with pytest.raises(CommitUnknown, match="removed"):
            await database.write(add_and_remove)


async def test_full_disk_is_reported_until_a_write_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def limit_pages(tx: Tx, pages: int) -> None:
        await tx.fetchval(f"PRAGMA max_page_count = {pages}")

    async def add_many(tx: Tx) -> None:
        for _ in range(10_000):
            await tx.execute("INSERT INTO t VALUES (1)")

    async with open_sqlite(tmp_path / "a.db") as database:
        await database.write(create)
        await database.write(limit_pages, 3)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable, match="full"):
                await database.write(add_many)
        full = database.load().fault or ""
        await database.write(limit_pages, 1_000_000)
        await database.write(add_many)

        assert "full" in full
        assert database.load().fault is None
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"]
