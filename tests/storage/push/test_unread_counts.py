"""Unread counts cost the same however much is unread, and miss no mention."""

import pytest

from hs.storage.database import Database, Tx
from hs.storage.push import push_rules, unread_counts
from hs.storage.push.push_rules import Evaluated, ExceptionRecord, OutcomeRecord
from hs.storage.push.unread_counts import MAX_COUNTED, ReadThread, UnreadCount, UnreadSpan
from tests.support.sql.plans import check_bounded

BOB = "@bob:hs.test"
ROOM = "!room:hs.test"
UNREAD = 4 * MAX_COUNTED
MENTIONED = 5
REPLIES = {10: "$read", 20: "$root"}


def outcome(number: int, room_id: str = ROOM) -> OutcomeRecord:
    return OutcomeRecord(
        stream_id=number,
        room_id=room_id,
        thread_id=REPLIES.get(number, "main"),
        sender="@alice:hs.test",
        notify=1,
        highlight=0,
        actions="[]",
    )


async def fill(tx: Tx) -> None:
    mention = ExceptionRecord(
        user_id=BOB,
        room_id=ROOM,
        stream_id=MENTIONED,
        event_id=f"${MENTIONED}",
        thread_id="main",
        notify=0,
        highlight=1,
        actions="[]",
    )
    outcomes = [outcome(number) for number in range(1, UNREAD + 1)]
    elsewhere = [outcome(number, f"!r{number % 50}") for number in range(UNREAD + 1, 2 * UNREAD)]
    await push_rules.store_results(
        tx, Evaluated([*outcomes, *elsewhere], [mention], [], [], position="")
    )
    await tx.execute("ANALYZE")


async def test_old_mentions_and_replies_are_counted_beside_the_newest_messages(
    database: Database,
) -> None:
    await database.write(fill)

    counts = await database.read(
        unread_counts.count_unread,
        BOB,
        [UnreadSpan(ROOM, 0, 2, UNREAD)],
        [ReadThread(ROOM, "$read", 10)],
    )

    assert sorted(counts) == [
        UnreadCount(ROOM, "$root", 1, 0),
        UnreadCount(ROOM, "main", MAX_COUNTED + 1, 1),
    ]


@pytest.mark.parametrize(
    ("read", "count"), [(UNREAD - 7, 7), (UNREAD, 0), (MENTIONED, MAX_COUNTED)]
)
async def test_newest_messages_are_counted_exactly(
    database: Database, read: int, count: int
) -> None:
    await database.write(fill)

    counts = await database.read(
        unread_counts.count_unread, BOB, [UnreadSpan(ROOM, read, read, UNREAD)], []
    )

    assert [each[2:] for each in counts if each.thread_id == "main"] == ([(count, 0)] * bool(count))


async def test_counting_walks_a_bounded_number_of_rows(database: Database) -> None:
    await database.write(fill)
    floor = UNREAD - MAX_COUNTED

    await check_bounded(
        database,
        unread_counts.FLOORS,
        BOB,
        *([ROOM], [0], [0], [UNREAD]),
        rows=MAX_COUNTED + 20,
        bounds="push_outcomes_room (room_id=? AND stream_id>? AND stream_id<?)",
    )
    await check_bounded(
        database,
        unread_counts.COUNTS,
        BOB,
        *([ROOM], [floor], [0], [UNREAD]),
        *([ROOM], ["$read"], [10]),
        rows=2 * MAX_COUNTED + 40,
        bounds="push_outcomes_room (room_id=? AND stream_id>? AND stream_id<?)",
        sorts=True,
    )
    await check_bounded(
        database,
        unread_counts.OLDER_HIGHLIGHTS,
        BOB,
        *([ROOM], [0], [0], [floor], [0], [floor]),
        *([ROOM], ["$read"], [10]),
        rows=40,
        bounds="push_outcomes_highlights (room_id=? AND rowid>? AND rowid<?)",
        sorts=True,
    )
