"""Lost, repeated and late messages: the feed delivers every row once, in order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.core.stream_def import ANY_PROCESS, StreamDef, StreamKind
from hs.core.streams import CACHES, SLOTS, TYPING, CacheRow, SlotsRow, TypingRow
from hs.repl.calls.reply import RpcUnavailable
from hs.repl.feed import Batch, Feed, Interest, is_plain
from hs.repl.freshness import catch_up
from hs.repl.intake import Intake
from hs.repl.message import Message, MessageKind, rows_message
from hs.repl.recent_rows import RecentBatch
from hs.repl.row_codec import encode_rows
from hs.repl.slots.assignment import slot_of
from hs.repl.slots.table import SlotTable
from hs.storage import stream_log, stream_slots
from hs.storage.database import Database, DatabaseUnavailable, Tx
from hs.storage.inline import open_inline
from hs.storage.stream_log import LoggedCommit
from tests.repl.conftest import HINTS, NOTES, Note, make_tables


class NoWriter:
    async def since(self, stream: str, after: int) -> RecentBatch | None:
        raise AssertionError("rows of table streams come from the log")


async def log_commits(tx: Tx, count: int) -> None:
    await stream_log.take_over(tx, "receipts", "w1", "life")
    for number in range(1, count + 1):
        encoded = encode_rows([(number, Note(str(number)))])
        await stream_log.append(tx, "receipts", "w1", LoggedCommit(number, number - 1, encoded), 0)
        await stream_log.set_position(tx, "receipts", "w1", "life", number)


@attrs.frozen(eq=False)
class Reading:
    """The intake of a process, and the numbers of the notes that its feed has delivered."""

    feed: Feed
    intake: Intake
    delivered: list[int]


@asynccontextmanager
async def reading_notes(database: Database, instance: str, *writers: str) -> AsyncIterator[Reading]:
    """Run the intake of a process that follows the notes of writers and changes of slots."""
    feed, delivered = Feed(), list[int]()
    feed.subscribe(NOTES, lambda batch: delivered.extend(number for number, _ in batch.rows))
    streams: dict[str, StreamDef[Any]] = {"receipts": NOTES, "slots": SLOTS}
    intake = Intake(feed, instance, database, lambda _: NoWriter(), streams)
    async with trio.open_nursery() as nursery:
        await nursery.start(intake.run)
        for writer in writers:
            feed.start_at(NOTES, writer, 0)
        yield Reading(feed, intake, delivered)
        nursery.cancel_scope.cancel()


async def delivered_of(
    database: Database, positions: list[int], pauses: set[int], group_size: int = 1
) -> list[int]:
    async with reading_notes(database, "w2", "w1") as r:
        for index, group in enumerate(in_groups(positions, group_size)):
            r.intake.accept(*map(note_message, group))
            if index in pauses:
                await trio.testing.wait_all_tasks_blocked()
        r.intake.accept(Message(MessageKind.POSITION, "w1", "receipts", "w1", prev=12, position=20))
        with trio.fail_after(60):
            assert await r.feed.wait_for(NOTES, "w1", 20, 60)
    return r.delivered


def in_groups(positions: list[int], size: int) -> list[list[int]]:
    return [positions[begin : begin + size] for begin in range(0, len(positions), size)]


def note_message(position: int) -> Message:
    batch = Batch(NOTES, "w1", position - 1, position, [(position, Note(str(position)))])
    return rows_message("w1", batch, 0)


async def test_messages_that_arrive_together_are_one_delivery_up_to_a_gap() -> None:
    async with open_inline() as database:
        feed = Feed()
        batches: list[Batch[Note]] = []
        feed.subscribe(NOTES, batches.append)
        feed.start_at(NOTES, "w1", 0)
        intake = Intake(feed, "w2", database, lambda _: NoWriter(), {"receipts": NOTES})

        intake.accept(*map(note_message, [1, 2, 3, 5]))

    assert [(batch.prev, batch.position) for batch in batches] == [(0, 3)]
    assert [number for number, _ in batches[0].rows] == [1, 2, 3]


async def test_plain_rows_that_nobody_takes_are_left_out_and_their_position_is_reached() -> None:
    marked = StreamDef("receipts", Note, StreamKind.TABLE, is_plain=lambda row: row.payload is None)
    async with open_inline() as database:
        feed = Feed()
        cached, changes = list[str](), list[str]()
        feed.subscribe(
            marked, lambda batch: cached.extend(row.text for _, row in batch.rows), Interest.OWN
        )
        feed.subscribe(
            marked,
            lambda batch: changes.extend(row.text for _, row in batch.rows),
            Interest.CHANGES,
        )
        feed.start_at(marked, "w1", 0)
        intake = Intake(feed, "w2", database, lambda _: NoWriter(), {"receipts": marked})

        for position, note in enumerate((Note("plain"), Note("change", b"!"), Note("last")), 1):
            batch = Batch(marked, "w1", position - 1, position, [(position, note)])
            intake.accept(rows_message("w1", batch, 0, plain=is_plain(batch)))
        feed.deliver(Batch(marked, "w2", 3, 4, [(4, Note("own"))]))

    assert feed.position_of(marked, "w1") == 3
    assert cached == ["change", "own"]
    assert changes == ["change"]


@pytest.mark.parametrize(
    ("changed", "interest", "is_delivered"),
    [
        (3, Interest.CHANGES, True),
        (4, Interest.CHANGES, False),
        (None, Interest.CHANGES, False),
        (3, Interest.ALL, False),
    ],
)
async def test_only_plain_rows_may_be_missing_and_only_where_nobody_takes_them(
    changed: int | None, interest: Interest, is_delivered: bool
) -> None:
    async with open_inline() as database:
        feed, texts = Feed(), list[str]()
        feed.subscribe(
            NOTES, lambda batch: texts.extend(row.text for _, row in batch.rows), interest
        )
        feed.start_at(NOTES, "w1", 3)
        intake = Intake(feed, "w2", database, lambda _: NoWriter(), {"receipts": NOTES})

        batch = Batch(NOTES, "w1", 5, 6, [(6, Note("change"))])
        intake.accept(rows_message("w1", batch, 0, changed=changed))

    assert texts == (["change"] if is_delivered else [])
    assert feed.position_of(NOTES, "w1") == (6 if is_delivered else 3)


async def test_rows_that_cannot_be_decoded_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def log_malformed(tx: Tx) -> None:
        malformed = encode_rows([(13, Note(13))])  # type: ignore[arg-type]  # on purpose
        commit = LoggedCommit(13, 12, malformed)
        await stream_log.append(tx, "receipts", "w1", commit, 0)
        await stream_log.append(
            tx, "receipts", "w1", LoggedCommit(20, 13, encode_rows([(20, Note("20"))])), 0
        )
        await stream_log.set_position(tx, "receipts", "w1", "life", 20)

    async with open_inline() as database:
        await make_tables(database)
        await database.write(log_commits, 12)
        await database.write(log_malformed)

        assert await delivered_of(database, [], set()) == [*range(1, 13), 20]
    assert "not decodable" in caplog.text


class TwoLives:
    """A memory writer that was replaced: the first calls still reach its earlier life."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []

    async def since(self, stream: str, after: int) -> RecentBatch | None:
        await trio.lowlevel.checkpoint()
        self.asked_at.append(trio.current_time())
        if len(self.asked_at) < 5:
            return RecentBatch(after, 101, 100, False, encode_rows([]))
        return RecentBatch(200, 201, 200, True, encode_rows([(201, Note("new"))]))


async def test_reply_of_an_earlier_life_is_ignored_and_the_writer_asked_again_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_inline() as database, trio.open_nursery() as nursery:
        feed = Feed()
        delivered: list[int] = []
        feed.subscribe(HINTS, lambda batch: delivered.extend(number for number, _ in batch.rows))
        feed.begin_epoch(HINTS, "w1", 100)
        feed.start_at(HINTS, "w1", 101)
        writer = TwoLives()
        intake = Intake(feed, "w2", database, lambda _: writer, {"hints": HINTS})
        await nursery.start(intake.run)

        batch = Batch(HINTS, "w1", 200, 201, [(201, Note("new"))])
        intake.accept(rows_message("w1", batch, 200))
        with trio.fail_after(60):
            assert await feed.wait_for(HINTS, "w1", 201, 60)
        nursery.cancel_scope.cancel()

    assert delivered == [201]
    # There was a pause before each further call.
    assert len(set(writer.asked_at)) == 5


class SteadyWriter:
    """A memory writer that is asked for its rows, which are none."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []

    async def since(self, stream: str, after: int) -> RecentBatch | None:
        await trio.lowlevel.checkpoint()
        assert trio.current_time() not in self.asked_at, "asked again without a pause"
        self.asked_at.append(trio.current_time())
        return RecentBatch(after, 100, 100, False, encode_rows([]))


class WriterOfCaches:
    """A process that has dropped an entry of a cache, and is gone after it was asked once."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def since(self, stream: str, after: int) -> RecentBatch | None:
        await trio.lowlevel.checkpoint()
        self.asked.append((stream, after))
        if len(self.asked) > 1:
            raise RpcUnavailable("w1", "it is gone")
        rows = encode_rows([(102, CacheRow("profiles", ("@a:b",)))])
        return RecentBatch(after, 102, 100, False, rows)


async def test_caller_gets_lost_rows_of_the_process_that_replied_without_a_reset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    batches, writer = list[Batch[CacheRow]](), WriterOfCaches()
    async with open_inline() as database, trio.open_nursery() as nursery:
        await make_tables(database)
        feed = Feed()
        feed.subscribe(CACHES, batches.append)
        feed.begin_epoch(CACHES, "w1", 100)
        feed.start_at(CACHES, "w1", 101)
        feed.start_at(CACHES, "w2", 101)
        intake = Intake(feed, "main", database, lambda _: writer)
        await nursery.start(intake.run)

        reached = [
            await catch_up(feed, [(CACHES, "w1", position)], intake.look)
            for position in (101, 102, 103)
        ]
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()

    assert reached == [True, True, False]
    assert {followed.lag for followed in intake.followed()} == {0}
    assert writer.asked == [("caches", 101), ("caches", 102)]
    ((number, row),) = batches[0].rows
    assert (number, row.keys, batches[0].reset) == (102, ("@a:b",), False)


class BusyWriter:
    """A process that drops a second entry while it is being asked for the first one."""

    def __init__(self) -> None:
        self.rows = [(101, CacheRow("profiles", ("@a:b",)))]

    async def since(self, stream: str, after: int) -> RecentBatch | None:
        rows = [row for row in self.rows if row[0] > after]
        if len(self.rows) == 1:
            self.rows.append((102, CacheRow("profiles", ("@c:d",))))
        await trio.sleep(1)
        return RecentBatch(after, rows[-1][0] if rows else after, 100, False, encode_rows(rows))


async def test_caller_gets_rows_of_a_reply_that_comes_while_the_process_is_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reached: dict[int, bool] = {}
    async with open_inline() as database, trio.open_nursery() as nursery:
        await make_tables(database)
        feed, writer = Feed(), BusyWriter()
        feed.subscribe(CACHES, lambda batch: None)
        feed.begin_epoch(CACHES, "w1", 100)
        feed.start_at(CACHES, "w1", 100)
        intake = Intake(feed, "main", database, lambda _: writer)
        await nursery.start(intake.run)

        async def call(position: int) -> None:
            reached[position] = await catch_up(feed, [(CACHES, "w1", position)], intake.look)

        async with trio.open_nursery() as calls:
            calls.start_soon(call, 101)
            await trio.sleep(0.5)
            calls.start_soon(call, 102)
        nursery.cancel_scope.cancel()

    assert reached == {101: True, 102: True}


@attrs.frozen
class UnreachableDatabase:
    async def read(self, *_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise DatabaseUnavailable("no connection")


async def test_memory_writer_is_not_asked_on_and_on_by_a_process_without_database(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What the writer announces comes after a change of slots, which is only in the database."""
    feed, writer, away = Feed(), SteadyWriter(), UnreachableDatabase()
    intake = Intake(feed, "main", cast("Database", away), lambda _: writer)
    async with trio.open_nursery() as nursery:
        await nursery.start(intake.run)

        intake.accept(
            Message(
                MessageKind.POSITION,
                "w1",
                "typing",
                "w1",
                prev=100,
                position=100,
                epoch=100,
                slots=7,
            )
        )
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()

    assert feed.position_of(TYPING, "w1") == 100
    assert len(writer.asked_at) == 1


async def test_own_rows_are_delivered_once_though_others_have_taken_the_slot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """This process, w1, hangs between a commit and its publication, and w2 takes its slot."""
    passed = SlotsRow(
        "receipts", "w2", ((0, 2),), (("receipts", "w1", 2),), (("receipts", "w2", 2),)
    )

    async def log_next_holder(tx: Tx) -> None:
        encoded = encode_rows([(3, Note("3"))])
        await stream_log.take_over(tx, "receipts", "w2", "life")
        await stream_log.append(tx, "receipts", "w2", LoggedCommit(3, 0, encoded), 0)
        await stream_log.set_position(tx, "receipts", "w2", "life", 3)

    async with open_inline() as database:
        await make_tables(database)
        await database.write(log_commits, 2)
        await database.write(log_next_holder)
        async with reading_notes(database, "w1", "w1", "w2") as r:
            r.feed.deliver(Batch(SLOTS, ANY_PROCESS, 0, 1, [(1, passed)]))
            position = Message(MessageKind.POSITION, "w2", "receipts", "w2", prev=0, position=3)
            r.intake.accept(position)
            await trio.sleep(10)
            before = list(r.delivered)
            r.feed.deliver(Batch(NOTES, "w1", 0, 2, [(1, Note("1")), (2, Note("2"))]))
            assert await r.feed.wait_for(NOTES, "w2", 3, 60)

    assert before == []
    assert r.delivered == [1, 2, 3]


async def test_rows_wait_for_a_holder_before_the_last_one() -> None:
    """The slot passes from w1 to w2, which writes nothing, and on to w3."""
    first = SlotsRow(
        "receipts", "w2", ((0, 2),), (("receipts", "w1", 2),), (("receipts", "w2", 0),)
    )
    second = SlotsRow(
        "receipts", "w3", ((0, 3),), (("receipts", "w2", 0),), (("receipts", "w3", 0),)
    )
    async with open_inline() as database:
        await make_tables(database)
        await database.write(log_commits, 2)
        async with reading_notes(database, "main", "w1", "w2", "w3") as r:
            r.feed.deliver(Batch(SLOTS, ANY_PROCESS, 0, 2, [(1, first), (2, second)]))
            batch = Batch(NOTES, "w3", 0, 3, [(3, Note("3"))])
            r.intake.accept(rows_message("w3", batch, 0, slots=2))
            before = list(r.delivered)
            with trio.fail_after(60):
                assert await r.feed.wait_for(NOTES, "w3", 3, 60)

    assert (before, r.delivered) == ([], [1, 2, 3])


@attrs.frozen
class TypingOf:
    """The rows that a writer of typing notifications remembers."""

    room_id: str

    async def since(self, stream: str, after: int) -> RecentBatch | None:
        rows = encode_rows([(100, TypingRow(self.room_id, ("@old:x",)))])
        return RecentBatch(0, 100, 100, True, rows)


async def test_rows_of_memory_streams_are_left_out_if_another_process_holds_their_keys() -> None:
    room_id, slot = "!a:x", slot_of("!a:x")
    slots = SlotTable("main", {"typing": ("w1", "w2")})
    slots.note("typing", slot, "w1", 1)
    holder = "w1"

    async def pass_on(tx: Tx) -> None:
        await stream_slots.fill(tx, {"typing": [holder] * 256})

    async with open_inline() as database, trio.open_nursery() as nursery:
        await make_tables(database)
        await database.write(pass_on)
        feed = Feed()
        shown: list[TypingRow] = []
        feed.subscribe(TYPING, lambda batch: shown.extend(row for _, row in batch.rows))
        intake = Intake(feed, "main", database, lambda _: TypingOf(room_id), slots=slots)
        await nursery.start(intake.run)
        for writer in ("w1", "w2"):
            intake.accept(
                Message(MessageKind.POSITION, writer, "typing", writer, position=100, epoch=100)
            )
            assert await feed.wait_for(TYPING, writer, 100, 60)
        by_repair = [row.user_ids for row in shown]
        slots.note("typing", slot, "w2", 2)
        for writer in ("w1", "w2"):
            row = TypingRow(room_id, (f"@of-{writer}:x",))
            intake.accept(rows_message(writer, Batch(TYPING, writer, 100, 101, [(101, row)]), 100))
        nursery.cancel_scope.cancel()

    assert by_repair == [("@old:x",)]
    assert [row.user_ids for row in shown[1:]] == [("@of-w2:x",)]


@settings(max_examples=40, deadline=None)
@given(
    positions=st.lists(st.integers(1, 12), max_size=20),
    pauses=st.sets(st.integers(0, 20)),
    group_size=st.integers(1, 6),
)
def test_rows_are_delivered_once_in_order_if_messages_are_lost_repeated_or_swapped(
    positions: list[int], pauses: set[int], group_size: int
) -> None:
    async def check() -> list[int]:
        async with open_inline() as database:
            await make_tables(database)
            await database.write(log_commits, 12)
            return await delivered_of(database, positions, pauses, group_size)

    assert trio.run(check) == list(range(1, 13))
