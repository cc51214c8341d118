"""A database that goes away during a commit: its callers are answered, and it is settled later."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing

from hs.repl.feed import Batch, Feed
from hs.repl.inproc import local_transport
from hs.repl.writers import ANSWER_S, SETTLE_PAUSE_S, SETTLE_STOP_S, TableWriter, WriterStopped
from hs.storage import stream_log
from hs.storage.database import CommitUnknown, Database, DatabaseError, DatabaseUnavailable
from tests.repl.conftest import NOTES, Note, add_note
from tests.repl.failing_writers import FailingWriter, ignore, table_writer
from tests.support.sql.forgetful import ForgetfulDatabase

GONE = DatabaseUnavailable("gone")


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()


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
    await wait_until(lambda: forgetful.refused > 0)
    nursery.start_soon(writes.write, "waiting")
    await wait_until(lambda: writes.writer.waiting == 1)
    assert writes.errors == {}

    clock.jump(ANSWER_S)
    await wait_until(lambda: len(writes.errors) == 2)
    return writes


@pytest.mark.parametrize("is_committed", [True, False])
async def test_callers_are_answered_and_the_commit_is_settled_later(
    db: Database, nursery: trio.Nursery, mock_clock: trio.testing.MockClock, is_committed: bool
) -> None:
    forgetful = ForgetfulDatabase(db)
    writes = await unsettled_writes(forgetful, nursery, mock_clock, is_committed)

    await writes.write("refused")
    mock_clock.jump(3600)
    await wait_until(lambda: forgetful.refused > 2)
    forgetful.fault = None
    mock_clock.jump(SETTLE_PAUSE_S)
    await wait_until(lambda: not writes.writer._busy)
    await writes.write("after")

    assert [type(writes.errors[text]) for text in ("first", "waiting", "refused")] == [
        CommitUnknown,
        DatabaseUnavailable,
        DatabaseUnavailable,
    ]
    assert len(writes.errors) == 3
    assert writes.published == (["first", "after"] if is_committed else ["after"])
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
    await wait_until(lambda: forgetful.refused > 0)
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(SETTLE_STOP_S)
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
            mock_clock.jump(SETTLE_PAUSE_S)

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
