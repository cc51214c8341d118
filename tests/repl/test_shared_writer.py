"""Streams that any process may write: one order of commits, which no reader can miss."""

from typing import Any, ParamSpec, TypeVar

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.errors import Unavailable
from hs.core.stream_def import ANY_PROCESS, StreamDef, StreamKind, StreamWriters
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import InProcHub, InProcTransport, local_transport
from hs.repl.intake import Intake
from hs.repl.message import rows_message
from hs.repl.shared_writer import SharedStreamIds, SharedTableWriter
from hs.repl.writers import Rows
from hs.storage import stream_log
from hs.storage.database import CommitUnknown, Database, Tx, Unit
from tests.repl.conftest import Note
from tests.repl.test_intake import NoWriter

P = ParamSpec("P")
T = TypeVar("T")

MARKS = StreamDef("marks", Note, StreamKind.TABLE, StreamWriters.ANY)


async def add_mark(tx: Tx, ids: SharedStreamIds, text: str) -> tuple[int, Rows[Note]]:
    """Publish a mark and return its position; publish nothing for an empty text."""
    if not text:
        return 0, []
    number = await ids.next_id()
    return number, [(number, Note(text))]


@attrs.define(eq=False)
class SlowDatabase:
    """A database whose replies to writes arrive when a test sets `reply`, or are lost."""

    real: Database
    reply: trio.Event = attrs.Factory(trio.Event)
    is_reply_lost: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result = await self.real.write(unit, *args, **kwargs)
        if self.is_reply_lost:
            raise CommitUnknown("lost")
        with trio.CancelScope(shield=True):
            await self.reply.wait()
        return result


@attrs.define(eq=False)
class Peer:
    """A process: its writer, and the batches that its feed has delivered."""

    feed: Feed
    intake: Intake
    transport: InProcTransport
    writer: SharedTableWriter[Note]
    batches: list[Batch[Note]] = attrs.Factory(list)

    @property
    def texts(self) -> list[str]:
        """The texts of the rows in the order of their delivery."""
        return [row.text for batch in self.batches for _, row in batch.rows]


async def open_peer(
    nursery: trio.Nursery, hub: InProcHub, database: Database, written: Any = None
) -> Peer:
    feed = Feed()
    transport = hub.join(feed)
    transport.shared = True
    intake = Intake(feed, "any name", database, lambda _: NoWriter(), {"marks": MARKS})
    await nursery.start(intake.run)
    writer = SharedTableWriter(
        MARKS, written or database, transport, lambda: 1_000_000, intake.look
    )
    peer = Peer(feed, intake, transport, writer)
    feed.subscribe(MARKS, peer.batches.append)
    await writer.attach()
    return peer


async def test_commits_of_all_processes_are_delivered_in_their_order(
    db: Database, nursery: trio.Nursery
) -> None:
    hub, slow = InProcHub(), SlowDatabase(db)
    first = await open_peer(nursery, hub, db, slow)
    second = await open_peer(nursery, hub, db)
    reader = await open_peer(nursery, hub, db)

    nursery.start_soon(first.writer.write, add_mark, "one")
    await wait_all_tasks_blocked()
    nursery.start_soon(second.writer.write, add_mark, "two")
    await wait_all_tasks_blocked()
    early = list(reader.texts), reader.feed.position(MARKS).floor
    slow.reply.set()
    await wait_all_tasks_blocked()

    assert early == ([], 0)
    for peer in (first, second, reader):
        assert peer.texts == ["one", "two"]
        assert peer.feed.position(MARKS).floor == 2
        assert not any(batch.reset for batch in peer.batches)
    nursery.cancel_scope.cancel()


async def test_commit_of_a_process_that_ended_before_its_message_is_read_from_the_log(
    db: Database, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    hub, slow = InProcHub(), SlowDatabase(db)
    first = await open_peer(nursery, hub, db, slow)
    second = await open_peer(nursery, hub, db)
    nursery.start_soon(first.writer.write, add_mark, "one")
    await wait_all_tasks_blocked()

    with trio.fail_after(5):
        number = await second.writer.write(add_mark, "two")

    slow.reply.set()
    await wait_all_tasks_blocked()

    assert number == 2
    assert second.texts == ["one", "two"]
    assert first.writer.position == second.writer.position == 2
    nursery.cancel_scope.cancel()


async def test_reader_that_gets_messages_out_of_order_delivers_each_row_once(
    db: Database, nursery: trio.Nursery
) -> None:
    writer = await open_peer(nursery, InProcHub(), db)
    reader = await open_peer(nursery, InProcHub(), db)
    for text in ("one", "two", "three"):
        await writer.writer.write(add_mark, text)

    for number in (1, 0, 2):
        reader.intake.accept(rows_message("w1", writer.batches[number], 0))
        await wait_all_tasks_blocked()

    assert reader.texts == ["one", "two", "three"]
    nursery.cancel_scope.cancel()


async def test_rows_that_are_no_longer_in_the_log_are_a_reset(
    db: Database, nursery: trio.Nursery
) -> None:
    writer = await open_peer(nursery, InProcHub(), db)
    reader = await open_peer(nursery, InProcHub(), db)
    for text in ("one", "two"):
        await writer.writer.write(add_mark, text)
    await db.write(stream_log.prune, 2_000_000)
    await writer.writer.write(add_mark, "three")

    reader.intake.accept(rows_message("w1", writer.batches[2], 0))
    await wait_all_tasks_blocked()

    seen = [(batch.position, batch.reset, len(batch.rows)) for batch in reader.batches]
    assert seen == [(2, True, 0), (3, False, 1)]
    nursery.cancel_scope.cancel()


async def test_commit_with_a_lost_reply_is_a_reset_before_the_next_write(db: Database) -> None:
    feed, batches = Feed(), list[Batch[Note]]()
    slow = SlowDatabase(db)
    slow.reply.set()
    writer = SharedTableWriter(MARKS, slow, local_transport(feed), lambda: 1_000_000)
    feed.subscribe(MARKS, batches.append)
    await writer.attach()

    slow.is_reply_lost = True
    with pytest.raises(CommitUnknown):
        await writer.write(add_mark, "lost")
    slow.is_reply_lost = False
    await writer.write(add_mark, "")

    assert [(batch.position, batch.reset) for batch in batches] == [(1, True)]
    assert await writer.write(add_mark, "next") == 2
    assert not batches[1].reset


async def test_restarted_process_continues_after_all_commits(db: Database) -> None:
    for expected in (1, 2):
        feed = Feed()
        writer = SharedTableWriter(MARKS, db, local_transport(feed), lambda: 1_000_000)
        await writer.attach()

        assert await writer.write(add_mark, "mark") == expected
        assert feed.position_of(MARKS, ANY_PROCESS) == expected


async def test_canceled_write_is_published(db: Database) -> None:
    feed = Feed()
    slow = SlowDatabase(db)
    writer = SharedTableWriter(MARKS, slow, local_transport(feed), lambda: 1_000_000)
    await writer.attach()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, add_mark, "mark")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        slow.reply.set()

    assert feed.position_of(MARKS, ANY_PROCESS) == 1


async def test_concurrent_writes_of_two_processes_get_each_position_once(
    db: Database, nursery: trio.Nursery
) -> None:
    hub = InProcHub()
    peers = [await open_peer(nursery, hub, db) for _ in range(3)]

    async with trio.open_nursery() as writes:
        for number in range(20):
            writes.start_soon(peers[number % 2].writer.write, add_mark, str(number))

    reader = peers[2]
    assert sorted(reader.texts, key=int) == [str(number) for number in range(20)]
    numbers = [number for batch in reader.batches for number, _ in batch.rows]
    assert numbers == list(range(1, 21))
    nursery.cancel_scope.cancel()


async def test_write_that_waits_too_long_is_refused(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    feed = Feed()
    slow = SlowDatabase(db)
    writer = SharedTableWriter(MARKS, slow, local_transport(feed), lambda: 1_000_000)
    await writer.attach()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, add_mark, "slow")
        await wait_all_tasks_blocked()
        with pytest.raises(Unavailable):
            await writer.write(add_mark, "late")
        slow.reply.set()

    assert feed.position_of(MARKS, ANY_PROCESS) == 1
