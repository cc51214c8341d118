"""Writers: batches, failures, lost connections, and the positions of several writers."""

from typing import ParamSpec, TypeVar

import attrs
import pytest
import trio

from hs.lib.aio import Bridge
from hs.repl.feed import Batch, Feed
from hs.repl.generations import WriterReplaced
from hs.repl.inproc import InProcHub, local_transport
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.repl.writers import Rows, StreamIds, TableWriter, WriterStopped
from hs.storage import stream_log
from hs.storage.database import (
    CommitUnknown,
    Database,
    RowMissing,
    Tx,
    Unit,
)
from tests.repl.conftest import HINTS, NOTES, Note, add_note
from tests.repl.failing_writers import FailingWriter, ignore, table_writer
from tests.support.servers.postgres import PostgresServer
from tests.support.sql.databases import fresh_postgres
from tests.support.sql.forgetful import ForgetfulDatabase

P = ParamSpec("P")
T = TypeVar("T")


async def test_write_returns_after_its_rows_were_delivered(
    db: Database, nursery: trio.Nursery
) -> None:
    feed = Feed()
    batches: list[Batch[Note]] = []
    feed.subscribe(NOTES, batches.append)
    writer = table_writer(db, local_transport(feed))
    await nursery.start(writer.run)

    number = await writer.write(add_note, "hello")

    assert [row for batch in batches for row in batch.rows] == [(number, Note("hello"))]
    assert feed.position(NOTES).floor == number
    nursery.cancel_scope.cancel()


async def test_waiting_writes_share_one_commit_and_one_batch(
    db: Database, nursery: trio.Nursery
) -> None:
    feed = Feed()
    batches: list[Batch[Note]] = []
    feed.subscribe(NOTES, batches.append)
    writer = table_writer(db, local_transport(feed))
    await nursery.start(writer.run)

    async with trio.open_nursery() as jobs:
        for number in range(20):
            jobs.start_soon(writer.write, add_note, str(number))

    assert len(batches) == 1
    assert [number for number, _ in batches[0].rows] == list(range(1, 21))
    nursery.cancel_scope.cancel()


async def test_of_a_batch_only_the_job_that_raises_fails(
    db: Database, nursery: trio.Nursery
) -> None:
    feed = Feed()
    batches: list[Batch[Note]] = []
    feed.subscribe(NOTES, batches.append)
    writer = table_writer(db, local_transport(feed))
    await nursery.start(writer.run)
    failed: list[str] = []

    async def write(text: str) -> None:
        try:
            await writer.write(add_note, text)
        except ValueError:
            failed.append(text)

    async with trio.open_nursery() as jobs:
        for text in ("a", "bad", "b"):
            jobs.start_soon(write, text)

    assert failed == ["bad"]
    assert sorted(row.text for batch in batches for _, row in batch.rows) == ["a", "b"]
    nursery.cancel_scope.cancel()


async def test_cancelled_caller_does_not_stop_the_commit(
    db: Database, nursery: trio.Nursery
) -> None:
    feed = Feed()
    batches: list[Batch[Note]] = []
    feed.subscribe(NOTES, batches.append)
    writer = table_writer(db, local_transport(feed))
    await nursery.start(writer.run)

    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.write(add_note, "kept")
    await writer.write(add_note, "after")

    assert [row.text for batch in batches for _, row in batch.rows] == ["kept", "after"]
    nursery.cancel_scope.cancel()


async def test_stopping_writer_finishes_waiting_jobs_and_refuses_new_ones(db: Database) -> None:
    feed = Feed()
    batches: list[Batch[Note]] = []
    feed.subscribe(NOTES, batches.append)
    writer = table_writer(db, local_transport(feed))
    async with trio.open_nursery() as jobs:
        async with trio.open_nursery() as running:
            await running.start(writer.run)
            jobs.start_soon(writer.write, add_note, "last")
            await trio.lowlevel.checkpoint()
            running.cancel_scope.cancel()

    assert [row.text for batch in batches for _, row in batch.rows] == ["last"]
    with pytest.raises(WriterStopped):
        await writer.write(add_note, "too late")


async def test_writer_starts_at_the_highest_position_of_all_writers(db: Database) -> None:
    async def run_once(name: str) -> int:
        async with trio.open_nursery() as running:
            writer = table_writer(db, local_transport(Feed()), name)
            await running.start(writer.run)
            number = await writer.write(add_note, name)
            running.cancel_scope.cancel()
        return number

    first, second = await run_once("w1"), await run_once("w2")
    async with trio.open_nursery() as running:
        again = table_writer(db, local_transport(Feed()))
        await running.start(again.run)
        running.cancel_scope.cancel()

    assert (first, second) == (1, 2)
    assert (again.position, again.committed) == (2, 1)


async def test_idle_writer_does_not_hold_back_readers(db: Database, nursery: trio.Nursery) -> None:
    hub = InProcHub()
    feeds = [Feed(), Feed(), Feed()]
    transports = [hub.join(feed) for feed in feeds]
    busy, silent = (table_writer(db, transports[at], f"w{at}") for at in (0, 1))
    await nursery.start(busy.run)
    await nursery.start(silent.run)

    numbers = [await busy.write(add_note, "x") for _ in range(3)]

    assert {feed.position(NOTES).encode() for feed in feeds} == {str(numbers[-1])}
    nursery.cancel_scope.cancel()


async def test_idle_writer_that_may_be_replaced_does_not_announce_a_position(
    db: Database, nursery: trio.Nursery
) -> None:
    hub = InProcHub()
    feeds = [Feed(), Feed()]
    busy = table_writer(db, hub.join(feeds[0]), "w1")
    paused = TableWriter(
        NOTES, "w2", db, hub.join(feeds[1]), lambda: 1_000_000, may_be_replaced=lambda: True
    )
    await nursery.start(busy.run)
    await nursery.start(paused.run)

    number = await busy.write(add_note, "x")

    for feed in feeds:
        assert feed.position_of(NOTES, "w1") == number
        assert feed.position(NOTES).get("w2") < number
    nursery.cancel_scope.cancel()


async def test_positions_of_two_busy_writers_are_separate(
    database: Database, nursery: trio.Nursery
) -> None:
    hub = InProcHub()
    reader = Feed()
    batches: list[Batch[Note]] = []
    reader.subscribe(NOTES, batches.append)
    hub.join(reader)
    writers = [table_writer(database, hub.join(Feed()), name) for name in ("w1", "w2")]
    for writer in writers:
        await nursery.start(writer.run)

    async with trio.open_nursery() as jobs:
        for number in range(30):
            jobs.start_soon(writers[number % 2].write, add_note, str(number))

    for name in ("w1", "w2"):
        numbers = [row[0] for batch in batches if batch.writer == name for row in batch.rows]
        assert numbers == sorted(numbers)
        assert reader.position(NOTES).covers(name, numbers[-1])
    assert len({row[1].text for batch in batches for row in batch.rows}) == 30
    nursery.cancel_scope.cancel()


async def test_unit_may_reserve_many_ids(db: Database, nursery: trio.Nursery) -> None:
    feed = Feed()
    writer = table_writer(db, local_transport(feed))
    await nursery.start(writer.run)

    async def add_many(tx: Tx, ids: StreamIds, count: int) -> tuple[list[int], Rows[Note]]:
        first = await ids.next_id()
        numbers = [first, *await ids.next_ids(count)]
        return numbers, [(number, Note("")) for number in numbers]

    reserved: list[int] = []

    async def write(count: int) -> None:
        numbers = await writer.write(add_many, count)
        assert numbers == sorted(numbers)
        reserved.extend(numbers)

    async with trio.open_nursery() as jobs:
        for count in (0, 3, 5):
            jobs.start_soon(write, count)

    assert len(set(reserved)) == len(reserved) == 11
    nursery.cancel_scope.cancel()


async def test_only_process_writes_no_log(db: Database, nursery: trio.Nursery) -> None:
    writer = table_writer(db, local_transport(Feed()))
    await nursery.start(writer.run)

    await writer.write(add_note, "x")

    assert await db.read(stream_log.read, "receipts", "w1", 0, 10) == []
    assert await db.read(stream_log.list_positions) == [("receipts", "w1", 1)]
    nursery.cancel_scope.cancel()


def test_memory_writer_delivers_at_once_and_positions_grow_over_restarts() -> None:
    feed = Feed()
    batches: list[Batch[Note]] = []
    feed.subscribe(HINTS, batches.append)
    writer = MemoryWriter(HINTS, "w1", local_transport(feed), epoch_at(1_000))
    writer.attach()

    position = writer.append_nowait([Note("a"), Note("b")])
    later = MemoryWriter(HINTS, "w1", local_transport(feed), epoch_at(1_001))

    assert [row.text for _, row in batches[0].rows] == ["a", "b"]
    assert feed.position(HINTS).floor == position == epoch_at(1_000) + 2
    assert later.epoch > position
    assert feed.epoch(HINTS, "w1") == writer.epoch


def test_memory_writer_returns_missed_rows_or_a_reset() -> None:
    writer = MemoryWriter(HINTS, "w1", local_transport(Feed()), epoch_at(1_000))
    start = writer.position
    for text in "abcdefgh":
        writer.append_nowait([Note(text)])

    missed = writer.since(start + 6)
    forgotten = writer.since(start + 1)

    assert ([row.text for _, row in missed.rows], missed.reset) == (["g", "h"], False)
    assert ([row.text for _, row in forgotten.rows], forgotten.reset) == (list("defgh"), True)
    assert writer.since(epoch_at(999)).reset


async def test_commit_with_a_lost_reply_is_published_once_if_it_was_done(
    db: Database, nursery: trio.Nursery
) -> None:
    forgetful = ForgetfulDatabase(db)
    feed = Feed()
    batches: list[Batch[Note]] = []
    feed.subscribe(NOTES, batches.append)
    writer = table_writer(forgetful, local_transport(feed))
    await nursery.start(writer.run)
    forgetful.lose_done = True

    assert await writer.write(add_note, "done") == 1
    forgetful.lose_undone = 2
    await writer.write(add_note, "at last")
    forgetful.lose_undone = 3
    with pytest.raises(CommitUnknown):
        await writer.write(add_note, "never")
    await writer.write(add_note, "after")

    assert [row.text for batch in batches for _, row in batch.rows] == ["done", "at last", "after"]
    nursery.cancel_scope.cancel()


async def test_commit_found_undone_cannot_be_done_later(
    db: Database, nursery: trio.Nursery
) -> None:
    async def generation(tx: Tx) -> str:
        return str(await tx.fetchval("SELECT life FROM stream_positions"))

    forgetful = ForgetfulDatabase(db)
    writer = table_writer(forgetful, local_transport(Feed()))
    await nursery.start(writer.run)
    before = await db.read(generation)
    forgetful.lose_undone = 1

    number = await writer.write(add_note, "again")

    with pytest.raises(RowMissing):
        await db.write(stream_log.set_position, "receipts", "w1", before, number + 1)
    assert await writer.write(add_note, "after") > number
    nursery.cancel_scope.cancel()


async def test_of_two_processes_with_one_name_only_the_later_one_writes(
    database: Database, nursery: trio.Nursery
) -> None:
    earlier, later = (table_writer(database, local_transport(Feed())) for _ in range(2))
    replaced = FailingWriter(earlier, WriterReplaced)
    await nursery.start(replaced.run)
    number = await earlier.write(add_note, "mine")
    await nursery.start(later.run)

    with pytest.raises(WriterReplaced):
        await earlier.write(add_note, "too late")
    with pytest.raises(WriterStopped):
        await earlier.write(add_note, "much too late")
    await replaced.ended.wait()

    assert await later.write(add_note, "mine by now") > number
    assert await database.read(stream_log.list_positions) == [("receipts", "w1", later.committed)]
    nursery.cancel_scope.cancel()


async def test_write_now_of_a_replaced_writer_fails(db: Database, nursery: trio.Nursery) -> None:
    replaced = FailingWriter(table_writer(db, local_transport(Feed())), WriterReplaced)
    await nursery.start(replaced.run)
    await db.write(stream_log.take_over, "receipts", "w1", "another life")

    with pytest.raises(WriterReplaced):
        await replaced.writer.write_now(add_note, "too late", on_late=ignore)

    await replaced.ended.wait()


async def write_without_rows(tx: Tx, ids: StreamIds) -> tuple[None, Rows[Note]]:
    """Write something that no reader needs to know."""
    await stream_log.reserve(tx, "hints", "w1", 1, 1)
    return None, []


async def test_replaced_writer_commits_nothing_without_rows_either(
    db: Database, nursery: trio.Nursery
) -> None:
    replaced = FailingWriter(table_writer(db, local_transport(Feed())), WriterReplaced)
    await nursery.start(replaced.run)
    await replaced.writer.write(write_without_rows)
    positions = await db.read(stream_log.list_positions)
    await db.write(stream_log.take_over, "receipts", "w1", "another life")

    with pytest.raises(WriterReplaced):
        await replaced.writer.write(write_without_rows)

    await replaced.ended.wait()
    assert await db.read(stream_log.list_positions) == positions


async def commit_slowly(tx: Tx) -> None:
    await stream_log.set_position(tx, "receipts", "w1", "killed", 7)
    await tx.execute("SELECT pg_sleep(1)")


SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


async def until_a_commit_sleeps(database: Database) -> None:
    async def is_any_asleep(tx: Tx) -> bool:
        return bool(await tx.fetchval(SLEEPING))

    with trio.fail_after(60):
        while not await database.read(is_any_asleep):  # noqa: ASYNC110 - PostgreSQL
            await trio.sleep(0.01)


@pytest.mark.postgres
async def test_start_waits_for_a_running_commit_of_an_earlier_life(
    postgres_server: PostgresServer, bridge: Bridge
) -> None:
    # `commits` is outside of `nursery`, so the commit ends before the database is closed.
    async with (
        fresh_postgres(postgres_server, bridge) as database,
        trio.open_nursery() as commits,
        trio.open_nursery() as nursery,
    ):
        await database.write(stream_log.take_over, "receipts", "w1", "killed")
        commits.start_soon(database.write, commit_slowly)
        await until_a_commit_sleeps(database)

        writer = table_writer(database, local_transport(Feed()))
        await nursery.start(writer.run)

        assert writer.committed == 7
        nursery.cancel_scope.cancel()


@attrs.define(kw_only=True)
class ImpatientDatabase(ForgetfulDatabase):
    """A database whose next commit, if `is_on`, is still running when its reply is lost."""

    nursery: trio.Nursery
    is_on: bool = False

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self.is_on:
            return await self.real.write(unit, *args, **kwargs)
        self.is_on = False

        async def take_long(tx: Tx) -> None:
            await unit(tx, *args, **kwargs)
            await tx.execute("SELECT pg_sleep(1)")

        self.nursery.start_soon(self.real.write, take_long)
        await until_a_commit_sleeps(self.real)
        raise CommitUnknown("lost")


@pytest.mark.postgres
async def test_running_commit_with_a_lost_reply_is_waited_for(
    postgres_server: PostgresServer, bridge: Bridge
) -> None:
    async with (
        fresh_postgres(postgres_server, bridge) as database,
        trio.open_nursery() as commits,
        trio.open_nursery() as nursery,
    ):
        feed = Feed()
        batches: list[Batch[Note]] = []
        feed.subscribe(NOTES, batches.append)
        impatient = ImpatientDatabase(database, nursery=commits)
        writer = table_writer(impatient, local_transport(feed))
        await nursery.start(writer.run)
        impatient.is_on = True

        with trio.fail_after(60):
            await writer.write(add_note, "late")

        assert [row.text for batch in batches for _, row in batch.rows] == ["late"]
        nursery.cancel_scope.cancel()
