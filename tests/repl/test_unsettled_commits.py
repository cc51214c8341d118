"""A database that goes away during a commit: its callers are answered, and it is settled later."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing

from hs.repl.feed import Batch, Feed
from hs.repl.generations import SETTLE_PAUSE_S
from hs.repl.inproc import local_transport
from hs.repl.writers import (
    ANSWER_S,
    SETTLE_STOP_S,
    Rows,
    StreamIds,
    TableWriter,
    WriterStopped,
)
from hs.storage import stream_log
from hs.storage.database import CommitUnknown, Database, DatabaseError, DatabaseUnavailable, Tx
from tests.repl.conftest import NOTES, Note, add_note
from tests.repl.failing_writers import FailingWriter, ignore, table_writer
from tests.support.sql.forgetful import ForgetfulDatabase

GONE = DatabaseUnavailable("gone")


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


@attrs.define
class Writes:
    """Writes of notes, with their errors, and the texts that were published."""

    writer: TableWriter[Note]
    errors: dict[str, Exception] = attrs.Factory(dict)
    published: list[str] = attrs.Factory(list)

    async def write(self, text: str) -> None:
        """Write a note; remember the error."""
        try:
            await self.writer.write(add_note, text)
        except (CommitUnknown, DatabaseUnavailable) as error:
            self.errors[text] = error

    def on_batch(self, batch: Batch[Note]) -> None:
        """Note what was published."""
        self.published += [row.text for _, row in batch.rows]


async def unsettled_writes(
    forgetful: ForgetfulDatabase,
    nursery: trio.Nursery,
    clock: trio.testing.MockClock,
    is_committed: bool = True,
) -> Writes:
    """Return writes of which "first" is answered but not settled, and "waiting" was refused."""
    feed = Feed()
    writes = Writes(table_writer(forgetful, local_transport(feed)))
    feed.subscribe(NOTES, writes.on_batch)
    await nursery.start(writes.writer.run)
    forgetful.fault = GONE
    forgetful.lose_done, forgetful.lose_undone = is_committed, int(not is_committed)
    nursery.start_soon(writes.write, "first")
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(writes.write, "waiting")
    await trio.testing.wait_all_tasks_blocked()
    assert writes.errors == {}

    await pass_time(clock, ANSWER_S)
    return writes


@pytest.mark.parametrize("is_committed", [True, False])
async def test_callers_are_answered_and_the_commit_is_settled_later(
    db: Database, nursery: trio.Nursery, mock_clock: trio.testing.MockClock, is_committed: bool
) -> None:
    forgetful = ForgetfulDatabase(db)
    writes = await unsettled_writes(forgetful, nursery, mock_clock, is_committed)

    await writes.write("refused")
    await pass_time(mock_clock, 3600)
    forgetful.fault = None
    await pass_time(mock_clock, SETTLE_PAUSE_S)
    await writes.write("after")

    assert [type(writes.errors[text]) for text in ("first", "waiting", "refused")] == [
        CommitUnknown,
        DatabaseUnavailable,
        DatabaseUnavailable,
    ]
    assert len(writes.errors) == 3
    assert writes.published == (["first", "after"] if is_committed else ["after"])
    nursery.cancel_scope.cancel()


async def test_all_parts_of_a_split_batch_are_answered(
    db: Database, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    async def fail(tx: Tx, ids: StreamIds) -> tuple[None, Rows[Note]]:
        raise ValueError

    async def write_failing() -> None:
        with pytest.raises(DatabaseUnavailable):
            await writes.writer.write(fail)
        failed.set()

    failed = trio.Event()
    forgetful = ForgetfulDatabase(db, lose_done=True, fault=GONE, stream="receipts")
    writes = Writes(table_writer(forgetful, local_transport(Feed())))
    nursery.start_soon(writes.write, "first")
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(write_failing)
    await trio.testing.wait_all_tasks_blocked()
    await nursery.start(writes.writer.run)
    await trio.testing.wait_all_tasks_blocked()
    assert writes.writer.waiting == 0

    await pass_time(mock_clock, ANSWER_S)
    await failed.wait()

    forgetful.fault = None
    await pass_time(mock_clock, SETTLE_PAUSE_S)
    assert writes.writer.committed > 0
    nursery.cancel_scope.cancel()


async def test_commit_is_not_settled_for_long_when_the_process_stops(
    db: Database, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    forgetful = ForgetfulDatabase(db)
    writes = Writes(table_writer(forgetful, local_transport(Feed())))
    failing = FailingWriter(writes.writer, CommitUnknown)
    scope = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await failing.run(task_status=task_status)

    await nursery.start(run)
    forgetful.lose_done, forgetful.fault = True, GONE
    nursery.start_soon(writes.write, "first")
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    await pass_time(mock_clock, SETTLE_STOP_S)
    await failing.ended.wait()

    assert isinstance(writes.errors["first"], CommitUnknown)
    next_life = table_writer(db, local_transport(Feed()))
    await nursery.start(next_life.run)
    assert next_life.committed > 0
    nursery.cancel_scope.cancel()


async def test_answered_writer_that_was_replaced_publishes_nothing(
    db: Database, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    forgetful = ForgetfulDatabase(db)
    outer = trio.CancelScope()

    with outer, pytest.RaisesGroup(CommitUnknown):
        async with trio.open_nursery() as writing:
            writes = await unsettled_writes(forgetful, writing, mock_clock)
            await db.write(stream_log.take_over, "receipts", "w1", "another life")
            forgetful.fault = None
            await pass_time(mock_clock, SETTLE_PAUSE_S)

    assert writes.published == []
    with pytest.raises(WriterStopped):
        await writes.writer.write(add_note, "after")


async def write(writer: TableWriter[Note]) -> None:
    await writer.write(add_note, "uncertain")


async def write_now(writer: TableWriter[Note]) -> None:
    await writer.write_now(add_note, "uncertain", on_late=ignore)


@pytest.mark.parametrize("write_one", [write, write_now])
async def test_writer_whose_commit_cannot_be_settled_fails(
    db: Database,
    nursery: trio.Nursery,
    write_one: Callable[[TableWriter[Note]], Awaitable[None]],
) -> None:
    forgetful = ForgetfulDatabase(db)
    failing = FailingWriter(table_writer(forgetful, local_transport(Feed())), CommitUnknown)
    await nursery.start(failing.run)
    forgetful.lose_done, forgetful.fault = True, DatabaseError("no such table")

    with pytest.raises(CommitUnknown):
        await write_one(failing.writer)
    forgetful.fault = None

    await failing.ended.wait()
    with pytest.raises(WriterStopped):
        await failing.writer.write(add_note, "after")
