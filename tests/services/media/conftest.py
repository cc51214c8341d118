"""Fixtures of the media repository tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hs.storage.database import Database
from tests.support.media import MediaWorld, open_media


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[MediaWorld]:
    """A media repository, for each database engine."""
    async with open_media(database, tmp_path) as opened:
        yield opened
