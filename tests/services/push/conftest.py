"""A SQLite database for tests that do not depend on the engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hs.storage.database import Database
from tests.support.sql.databases import fresh_sqlite


@pytest.fixture
async def sqlite_database(sqlite_template: Path, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty, migrated database file."""
    async with fresh_sqlite(sqlite_template, tmp_path / "test.db") as database:
        yield database
