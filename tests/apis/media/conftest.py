"""Fixtures for endpoints of the media repository."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hs.storage.database import Database
from tests.support.media import MediaWorld, open_media


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[MediaWorld]:
    """Yield a media repository on each database engine."""
    async with open_media(database, tmp_path) as world:
        yield world
