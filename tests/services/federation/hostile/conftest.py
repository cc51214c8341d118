"""Fixtures for attacks."""

import logging
from collections.abc import AsyncIterator, Iterator

import attrs
import pytest

from hs.apis.web.request_log import access_log
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import Inbound, open_inbound
from tests.support.sql.databases import fresh_inline


@pytest.fixture
async def inbound(database: Database) -> AsyncIterator[Inbound]:
    """A server in a room of peers, on each engine."""
    async with open_inbound(database) as opened:
        yield opened


@pytest.fixture
async def inline_database() -> AsyncIterator[Database]:
    """A database without threads, for virtual time."""
    async with fresh_inline() as database:
        yield database


@pytest.fixture
async def timed(inline_database: Database, autojump_clock: object) -> AsyncIterator[Inbound]:
    """A server in a room of peers, on virtual time."""
    async with open_inbound(inline_database) as opened:
        yield opened


@attrs.define
class ServerLog:
    """The lines that the server logs from the information level on."""

    caplog: pytest.LogCaptureFixture

    def lines(self) -> list[str]:
        """Return the messages so far."""
        return [
            record.getMessage()
            for record in self.caplog.records
            if record.name.startswith("hs.") and record.name != access_log.name
        ]

    def take(self) -> list[str]:
        """Return the messages so far, and forget them."""
        lines = self.lines()
        self.caplog.clear()
        return lines


@pytest.fixture
def server_log(caplog: pytest.LogCaptureFixture) -> Iterator[ServerLog]:
    """The log, in which no attack may leave an error."""
    caplog.set_level(logging.INFO, "hs")
    yield ServerLog(caplog)
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    errors = [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    assert errors == []
