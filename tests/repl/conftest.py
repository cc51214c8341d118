"""Two streams of notes, and a database with only the tables of replication."""

from collections.abc import AsyncIterator

import attrs
import pytest

from hs.core.stream_def import StreamDef, StreamKind, StreamWriters
from hs.repl.writers import Rows, StreamIds
from hs.storage.database import Database, Tx
from hs.storage.inline import open_inline
from hs.storage.migrate import bundled_migrations, migrate


@attrs.frozen
class Note:
    """The row of both streams."""

    text: str
    payload: bytes | None = None


# NOTES has the name of a real stream, because a table stream must be declared in the schema.
NOTES = StreamDef(
    "receipts",
    Note,
    StreamKind.TABLE,
    StreamWriters.SHARDED,
    is_plain=lambda row: row.text.startswith("plain"),
)
HINTS = StreamDef("hints", Note, StreamKind.MEMORY, recent=5)


async def add_note(tx: Tx, ids: StreamIds, text: str) -> tuple[int, Rows[Note]]:
    """Publish a note and return its ID; the text `bad` raises ValueError."""
    if text == "bad":
        raise ValueError(text)
    number = await ids.next_id()
    return number, [(number, Note(text))]


async def make_tables(database: Database) -> None:
    """Create the tables of replication."""
    names = ("replication", "lives", "stream_slots")
    migrations = [migration for migration in bundled_migrations() if migration.name in names]
    await migrate(database, migrations, ["pre"])


@pytest.fixture
async def db() -> AsyncIterator[Database]:
    """A database in memory, without a thread, with the tables of replication."""
    async with open_inline() as database:
        await make_tables(database)
        yield database
