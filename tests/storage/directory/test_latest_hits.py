"""The latest hits of a common word cost the same in an index of any size."""

from typing import Any

import pytest

from hs.core.search_words import parse_query
from hs.storage.database import Database, Tx
from hs.storage.dialect import Query
from hs.storage.directory import search
from hs.storage.directory.search import (
    WALKED,
    WALKED_FIRST,
    IndexEntry,
    IndexRemovals,
    MessageSearchQuery,
)
from hs.storage.rooms import events
from hs.storage.rooms.events import EventRecord
from tests.support.sql.plans import explain, rows_walked

ENTRIES = 2 * WALKED
ROOMS = 4
RARE = 3
PAGE = 20
ALL_ROOMS = [f"!r{number}" for number in range(2 * ROOMS)]


def entry(number: int) -> IndexEntry:
    words = ["common", "rare"] if number == RARE else ["common"]
    return IndexEntry(
        stream_id=number,
        room_id=f"!r{number % ROOMS}",
        type="m.room.message",
        sender="@a:hs.test",
        origin_server_ts=1,
        words=words,
    )


def record(number: int) -> EventRecord:
    return EventRecord(
        stream_id=number,
        writer="main",
        event_id=f"${number}",
        room_id=f"!r{number % ROOMS}",
        type="m.room.message",
        state_key=None,
        sender="@a:hs.test",
        depth=number,
        origin_server_ts=1,
        snapshot_id=1,
        status=0,
        contains_url=0,
        redacted_by=None,
        pdu=b"{}",
    )


async def fill(tx: Tx) -> None:
    numbers = range(1, ENTRIES + 1)
    await events.insert(tx, [record(number) for number in numbers])
    await search.update_index(
        tx, [entry(number) for number in numbers], IndexRemovals([], []), "events", "1"
    )


async def walk(tx: Tx, statement: Query, *args: Any) -> int:
    await tx.execute(search.WALK_INDEXES, "off")
    return await rows_walked(tx, statement, *args)


def query(word: str, room_ids: list[str]) -> MessageSearchQuery:
    return MessageSearchQuery(parse_query(word), room_ids, ["m.room.message"], None)


@pytest.mark.parametrize("room_ids", [["!r1"], ["!r1", "!r2"], ALL_ROOMS])
async def test_latest_hits_are_listed_page_by_page(database: Database, room_ids: list[str]) -> None:
    await database.write(fill)
    expected = [number for number in range(ENTRIES, 0, -1) if f"!r{number % ROOMS}" in room_ids]

    listed: list[int] = []
    below = search.MAX_STREAM_ID
    while len(listed) < 3 * WALKED_FIRST:
        hits = await database.read_long(search.list_latest, query("common", room_ids), below, PAGE)
        listed += [hit.stream_id for hit in hits]
        below = listed[-1]

    assert listed == expected[: len(listed)]


async def test_rare_word_is_found_below_the_walked_entries(database: Database) -> None:
    await database.write(fill)

    found = [
        await database.read_long(
            search.list_latest, query("rare", rooms), search.MAX_STREAM_ID, PAGE
        )
        for rooms in (["!r3"], ALL_ROOMS, ["!r1"])
    ]

    assert [[hit.stream_id for hit in hits] for hits in found] == [[RARE], [RARE], []]


async def test_common_word_walks_a_bounded_number_of_entries(database: Database) -> None:
    await database.write(fill)
    word = "common" if database.engine == "sqlite" else "'common'"
    args = (word, ["!r1"], ["m.room.message"], 0, list[str](), search.MAX_STREAM_ID, PAGE)
    if database.engine == "sqlite":
        plan = await database.read(explain, search.LATEST, *args)

        assert plan.startswith("SCAN search_words VIRTUAL TABLE"), plan
        assert "TEMP B-TREE" not in plan
        return
    in_each = 100
    # A hit is looked up in the events table as well, and each row is counted by several steps.
    rows = 4 * ROOMS * in_each
    walked = [
        (search.WALK_FLOOR, (["!r1"], search.MAX_STREAM_ID, in_each)),
        (search.LATEST_WALKED_IN_ROOMS, (*args, in_each, 0)),
        (search.COUNT_WALKED_IN_ROOMS, (*args, in_each, 0)),
        (search.LATEST_WALKED, (*args, in_each)),
        (search.COUNT_WALKED, (*args, in_each)),
    ]
    # The table has no statistics: PostgreSQL takes it for a small one.
    for statement, arguments in walked:
        assert await database.read_long(walk, statement, *arguments) <= rows


async def test_count_ends_at_a_bound(database: Database) -> None:
    await database.write(fill)

    counts = [
        await database.read_long(search.count_hits, query(word, room_ids))
        for word in ("common", "rare")
        for room_ids in (["!r3"], ALL_ROOMS, ["!none"])
    ]

    assert counts == [search.MAX_COUNT, search.MAX_COUNT, 0, 1, 1, 0]
