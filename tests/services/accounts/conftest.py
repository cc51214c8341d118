"""Fixtures of the account tests."""

from collections.abc import AsyncIterator

import pytest

from hs.storage.database import Database
from tests.support.accounts import Accounts, open_accounts


@pytest.fixture
async def accounts(database: Database) -> AsyncIterator[Accounts]:
    """The account services of a server with open registration."""
    async with open_accounts(database) as opened:
        yield opened
