"""A small database and a stream of notes for the tests of replication."""

from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

import hs.storage.schema
from hs.repl.streams import Kind, StreamDef, Writers
from hs.repl.writers import Rows, StreamIds
from hs.storage.database import Database, Tx
from hs.storage.inline import open_inline

SCHEMA = Path(next(iter(hs.storage.schema.__path__)), "0002_replication.sql")
STATEMENTS = "".join(line.partition("--")[0] for line in SCHEMA.read_text().splitlines())


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


async def create(tx: Tx) -> None:
    """Create the tables of replication."""
    await tx.execute("CREATE TABLE IF NOT EXISTS stream_ids (stream TEXT, last_id BIGINT)")
    for statement in STATEMENTS.split(";"):
        if "CREATE STREAM" in statement:
            name = statement.split()[-1]
            await tx.execute("INSERT INTO stream_ids VALUES ($1, 0)", name)
        elif statement.strip():
            await tx.execute(statement.replace("BYTEA", "BLOB"))


@pytest.fixture
async def db() -> AsyncIterator[Database]:
    """An empty database, called inline."""
    async with open_inline() as database:
        await database.write(create)
        yield database
