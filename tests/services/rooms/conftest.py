"""Fixtures for tests of rooms."""

from collections.abc import AsyncIterator

import pytest

from hs.storage.database import Database
from tests.support.rooms import World, open_world


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Rooms on a fresh database, on each engine."""
    async with open_world(database) as opened:
        yield opened
