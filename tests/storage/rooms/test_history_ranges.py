"""Pages deep in history are ranges of an index: their cost does not grow with the room."""

import pytest

from hs.storage.database import Database, Tx
from hs.storage.rooms import events, relation_writes, relations, timelines
from hs.storage.rooms.events import EventRecord
from hs.storage.rooms.relation_writes import RelationRecord
from hs.storage.rooms.relations import ChildrenQuery
from tests.support.sql.plans import check_bounded

ROOM = "!room:hs.test"
ROOMS = 3
PER_ROOM = 2000
START, END = (-1, 0), (10**18, 10**18)
PAGE = 10
MIDDLE = PER_ROOM // 2


def record(number: int, room_id: str) -> EventRecord:
    return EventRecord(
        stream_id=number,
        writer="main",
        event_id=f"${number}",
        room_id=room_id,
        type="m.room.message",
        state_key=None,
        sender=f"@u{number % 7}:hs.test",
        depth=number // ROOMS,
        origin_server_ts=1000 * number,
        snapshot_id=1,
        status=0,
        contains_url=0,
        redacted_by=None,
        pdu=b"{}",
    )


def child(number: int) -> RelationRecord:
    return RelationRecord(
        event_id=f"$c{number}",
        room_id=ROOM,
        parent_id="$root",
        rel_type="m.thread" if number % 2 else "m.reference",
        aggregation_key=None,
        type="m.room.message",
        sender=f"@u{number}:hs.test",
        depth=number,
        stream_id=number,
    )


async def fill(tx: Tx) -> None:
    rooms = (ROOM, "!second:hs.test", "!third:hs.test")
    numbers = range(1, ROOMS * PER_ROOM + 1)
    await events.insert(tx, [record(number, rooms[number % ROOMS]) for number in numbers])
    await relation_writes.insert(tx, [child(number) for number in range(1, PER_ROOM)])
    await tx.execute("ANALYZE")


@pytest.mark.parametrize(
    ("statement", "after", "upto"),
    [
        (timelines.NEWEST, START, (MIDDLE, 10**9)),
        (timelines.NEWEST, START, (5, 10**9)),
        (timelines.OLDEST, (MIDDLE, 0), END),
        (timelines.OLDEST, (PER_ROOM - 5, 0), END),
    ],
)
async def test_page_deep_in_history_walks_only_its_events(
    database: Database, statement: str, after: tuple[int, int], upto: tuple[int, int]
) -> None:
    await database.write(fill)

    bounds = "(room_id=? AND depth>? AND depth<?)"
    await check_bounded(
        database, statement, ROOM, *after, *upto, PAGE, rows=4 * PAGE, bounds=bounds
    )


@pytest.mark.parametrize(
    ("statement", "after", "upto"),
    [
        (relations.NEWEST_CHILDREN, START, (5, 10**9)),
        (relations.OLDEST_CHILDREN, (PER_ROOM - 5, 0), END),
    ],
)
async def test_page_of_children_walks_only_its_children(
    database: Database, statement: str, after: tuple[int, int], upto: tuple[int, int]
) -> None:
    await database.write(fill)

    args = ("$root", ROOM, "", *after, *upto, PAGE, "m.thread")
    bounds = "(parent_id=? AND rel_type=? AND (depth,stream_id)>(?,?) AND (depth,stream_id)<(?,?))"
    await check_bounded(database, statement, *args, rows=4 * PAGE, bounds=bounds)
    await check_bounded(
        database, relations.REL_TYPES, "$root", rows=PAGE, bounds="(parent_id=? AND rel_type>?)"
    )


@pytest.mark.parametrize("rel_types", [2, relations.MAX_REL_TYPES + 1])
async def test_children_of_all_relations_are_in_order(database: Database, rel_types: int) -> None:
    children = [child(number)._replace(rel_type=f"t{number % rel_types}") for number in range(99)]
    await database.write(relation_writes.insert, children)
    query = ChildrenQuery(
        room_id=ROOM,
        parent_id="$root",
        rel_type="",
        event_type="",
        after=(10, 10),
        upto=(80, 80),
        limit=5,
    )

    newest = await database.read(relations.newest_children, query)
    oldest = await database.read(relations.oldest_children, query)

    assert [child.stream_id for child in newest] == [80, 79, 78, 77, 76]
    assert [child.stream_id for child in oldest] == [11, 12, 13, 14, 15]


@pytest.mark.parametrize("at", [3, 300, ROOMS * PER_ROOM - 3])
async def test_event_of_a_time_is_found_by_the_index(database: Database, at: int) -> None:
    await database.write(fill)
    position = (1000 * at + 1, 0)

    (after, *_) = await database.read(timelines.after_time, ROOM, position, PAGE)
    (before, *_) = await database.read(timelines.before_time, ROOM, position, PAGE)

    assert (before.stream_id, after.stream_id) == (at, at + 3)
    for statement, sign in ((timelines.AFTER_TIME, ">"), (timelines.BEFORE_TIME, "<")):
        bounds = f"events_room_time (room_id=? AND origin_server_ts{sign}?)"
        await check_bounded(
            database, statement, ROOM, *position, PAGE, rows=4 * PAGE, bounds=bounds
        )
