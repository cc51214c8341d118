"""Fixtures for tests of what other servers send."""

from collections.abc import AsyncIterator

import pytest

from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import Inbound, open_inbound


@pytest.fixture
async def inbound(database: Database) -> AsyncIterator[Inbound]:
    """A server in a room of peers, on each engine."""
    async with open_inbound(database) as opened:
        yield opened
