"""Fixtures of the device tests."""

from collections.abc import AsyncIterator

import pytest

from hs.storage.database import Database
from tests.support.devices import Process, open_devices


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Process]:
    """A process with devices, rooms and sync on a new database, for each engine."""
    async with open_devices(database) as opened:
        yield opened
