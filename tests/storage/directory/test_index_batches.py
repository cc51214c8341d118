"""Entries of the search index are added in one statement: SQLite writes its index after each."""

import pytest

from hs.storage.database import Database, Tx
from hs.storage.directory import search
from hs.storage.directory.search import IndexEntry, IndexRemovals

ENTRIES = 100


async def add(tx: Tx) -> None:
    entries = [
        IndexEntry(
            stream_id=number,
            room_id="!r",
            type="m.room.message",
            sender="@a:hs.test",
            origin_server_ts=1,
            words=["common", f"word{number}"],
        )
        for number in range(ENTRIES)
    ]
    await search.update_index(tx, entries, IndexRemovals([], []), "events", str(ENTRIES))


async def segments(tx: Tx) -> int:
    count: int = await tx.fetchval("SELECT count(DISTINCT segid) FROM search_words_idx")
    return count


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_entries_of_a_batch_are_one_segment(database: Database) -> None:
    await database.write(add)

    assert await database.read(segments) == 1
