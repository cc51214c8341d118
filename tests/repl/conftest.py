"""A small database and a stream of notes for the tests of replication."""

from collections.abc import AsyncIterator

import attrs
import pytest

from hs.repl.streams import Kind, StreamDef, Writers
from hs.repl.writers import Rows, StreamIds
from hs.storage.database import Database, Tx
from hs.storage.inline import open_inline
from hs.storage.migrate import bundled_migrations, migrate


@attrs.frozen
class Note:
    """A row for tests."""

    text: str
    payload: bytes | None = None


NOTES = StreamDef("receipts", Note, Kind.TABLE, Writers.SHARDED)
HINTS = StreamDef("hints", Note, Kind.MEMORY, recent=5)


async def add_note(tx: Tx, ids: StreamIds, text: str) -> tuple[int, Rows[Note]]:
    """Publish one note; give its id."""
    if text == "bad":
        raise ValueError(text)
    number = await ids.one()
    return number, [(number, Note(text))]


async def make_tables(database: Database) -> None:
    """Make the tables of replication."""
    mine = [one for one in bundled_migrations() if one.name in ("replication", "lives")]
    await migrate(database, mine, ["pre"])


@pytest.fixture
async def db() -> AsyncIterator[Database]:
    """A database in memory, called inline, with the tables of replication."""
    async with open_inline() as database:
        await make_tables(database)
        yield database
