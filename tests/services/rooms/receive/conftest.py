"""Fixtures for tests of receiving."""

from collections.abc import AsyncIterator

import pytest

from hs.storage.database import Database
from tests.support.receiving import ReceivingWorld, open_receiving


@pytest.fixture
async def world(database: Database) -> AsyncIterator[ReceivingWorld]:
    """A world on a fresh database, on each engine."""
    async with open_receiving(database) as opened:
        yield opened
