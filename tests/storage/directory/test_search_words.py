"""Migration 0037: messages that were indexed before are found, and removed from the index."""

from hs.core.search_words import parse_query
from hs.storage.database import Tx
from hs.storage.directory import search
from hs.storage.directory.search import IndexEntry, IndexRemovals, MessageSearchQuery
from tests.support.sql.migrated import filled_before

NUMBER = 37
EVENT = """
INSERT INTO events
    (stream_id, writer, event_id, room_id, type, sender, depth, origin_server_ts, pdu)
VALUES ($1, 'main', $2, '!room', 'm.room.message', '@a:hs.test', 1, 5, x'7b7d')
"""
ENTRY = """
INSERT INTO search_entries (stream_id, room_id, type, sender, origin_server_ts, words)
VALUES ($1, '!room', 'm.room.message', '@a:hs.test', 5, 'green tea')
"""
TEA = MessageSearchQuery(parse_query("tea"), ["!room"], ["m.room.message"], None)


async def fill(tx: Tx) -> None:
    for stream_id in (1, 2, 3):
        await tx.execute(EVENT, stream_id, f"${stream_id}")
    for stream_id in (1, 2):
        await tx.execute(ENTRY, stream_id)


async def found(tx: Tx) -> list[tuple[int, str, int]]:
    hits = await search.list_latest(tx, TEA, 10, 10)
    return [(hit.stream_id, hit.room_id, hit.origin_server_ts) for hit in hits]


async def test_indexed_messages_are_found_after_the_migration() -> None:
    async with filled_before(NUMBER, fill) as database:
        later = IndexEntry(
            stream_id=3,
            room_id="!room",
            type="m.room.message",
            sender="@a:hs.test",
            origin_server_ts=5,
            words=["black", "tea"],
        )
        await database.write(search.update_index, [later], IndexRemovals([], []), "main", "3")
        await database.write(search.remove, [1])

        assert await database.read(found) == [(3, "!room", 5), (2, "!room", 5)]
        assert await database.read(search.count_hits, TEA) == 2
