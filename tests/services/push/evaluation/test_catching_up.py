"""Events that are read from the tables: after a start, and after more waited than fit."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.core.streams import EVENTS, UNREAD, EventRow, UnreadRow
from hs.repl.cluster import Cluster
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import InProcTransport
from hs.services.push.evaluation import evaluation_duty, missed_events
from hs.services.push.evaluation.evaluation_duty import ROWS_AT_ONCE
from hs.services.push.evaluation.missed_events import MissedEvents
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.receive.outside_memberships import OutsideMembership
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import (
    Database,
    DatabaseError,
    DatabaseTimeout,
    DatabaseUnavailable,
    Tx,
)
from hs.storage.push import push_rules
from hs.storage.rooms import thread_subscriptions
from tests.support.composition import Neighbourhood
from tests.support.evaluating import (
    SOON_S,
    deliver,
    evaluating_settings,
    reply_to,
    until_unread,
    writing_settings,
)
from tests.support.peers import ADMIN, History
from tests.support.rooms import ALICE, BOB, open_world
from tests.support.unread import WITH_THREADS

Before = Callable[[int], Awaitable[None]]


@attrs.define(eq=False)
class WatchedDatabase:
    """A database that awaits `before`, with the number of the call, before it reads a unit."""

    real: Database
    unit: Callable[..., Any]
    before: Before
    reads: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def read(self, unit: Callable[..., Any], *args: Any) -> Any:
        if unit is self.unit:
            self.reads += 1
            await self.before(self.reads)
        return await self.real.read(unit, *args)


@attrs.define(eq=False)
class CountingReads:
    """A database that notes the names of the units that it reads."""

    real: Database
    names: list[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def read(self, unit: Callable[..., Any], *args: Any) -> Any:
        self.names.append(getattr(unit, "__name__", ""))
        return await self.real.read(unit, *args)


@pytest.mark.parametrize("limit", [1, 5])
async def test_events_whose_rows_did_not_fit_into_the_queue_are_read_from_the_tables(
    database: Database, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(evaluation_duty, "MAX_QUEUED_ROWS", limit)
    asked, released = trio.Event(), trio.Event()

    async def block(number: int) -> None:
        asked.set()
        await released.wait()

    watched: Any = WatchedDatabase(database, thread_subscriptions.list_subscribers, block)
    async with open_world(watched, WITH_THREADS) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        root_id = (await world.send(room_id, ALICE)).event_id
        await world.append(room_id, reply_to(root_id))
        await asked.wait()
        for _ in range(8):
            await world.send(room_id, ALICE)

        released.set()

        await until_unread(world, BOB, room_id, 9)
        await world.send(room_id, ALICE)
        await until_unread(world, BOB, room_id, 10)


async def test_queue_that_overflows_while_missed_events_are_read_loses_none(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_duty, "MAX_QUEUED_ROWS", 5)
    neighbours = Neighbourhood()
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE, join=[BOB])

        async def send(number: int) -> None:
            if number <= 3:
                for _ in range(8):
                    await writing.send(room_id, ALICE)

        watched: Any = WatchedDatabase(database, push_rules.list_events_after, send)
        async with open_world(watched, evaluating_settings(), neighbours=neighbours) as world:
            await until_unread(world, BOB, room_id, 24)


async def test_missed_events_are_read_once_the_database_is_available(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_duty, "FIRST_PAUSE_S", 0.001)
    neighbours = Neighbourhood()

    async def fail(number: int) -> None:
        if number == 1:
            raise DatabaseUnavailable("for a moment")

    watched: Any = WatchedDatabase(database, push_rules.list_events_after, fail)
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE, join=[BOB])
        await writing.send(room_id, ALICE)
        async with open_world(watched, evaluating_settings(), neighbours=neighbours) as world:
            await until_unread(world, BOB, room_id, 1)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), DatabaseError("no such row"), DatabaseTimeout("slow")]
)
async def test_missed_event_that_cannot_be_read_is_skipped(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(evaluation_duty, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(evaluation_duty, "LONGEST_PAUSE_S", 0.001)
    neighbours = Neighbourhood()
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE, join=[BOB])
        bad, *_ = [(await writing.send(room_id, ALICE)).event_id for _ in range(3)]
        rows_of = MissedEvents._rows

        async def fail_for_one(
            self: MissedEvents, event_ids: Sequence[EventID]
        ) -> dict[EventID, EventRow]:
            if bad in event_ids:
                raise error
            return await rows_of(self, event_ids)

        monkeypatch.setattr(MissedEvents, "_rows", fail_for_one)
        async with open_world(database, evaluating_settings(), neighbours=neighbours) as world:
            await until_unread(world, BOB, room_id, 2)


@attrs.define(eq=False)
class WithSlowWriter(Neighbourhood):
    """Processes that follow another writer, `slow`, from a position on."""

    position: int = 0
    feed: Feed = attrs.Factory(Feed)

    def connect(self, settings: Any, feed: Feed, *others: Any) -> tuple[InProcTransport, Cluster]:
        feed.start_at(EVENTS, "slow", self.position)
        self.feed = feed
        return super().connect(settings, feed, *others)


async def set_status(tx: Tx, event_ids: set[EventID], status: EventStatus) -> None:
    """Make events of the slow writer visible or not; outliers are not evaluated."""
    update = "UPDATE events SET writer = 'slow', status = $1 WHERE event_id = $2"
    for event_id in event_ids:
        await tx.execute(update, status, event_id)


async def notifying(database: Database, room_id: RoomID) -> list[str]:
    """List the stored events that notify Bob."""
    records = await database.read(push_rules.list_notifications, BOB, [room_id], 2**62, False, 100)
    return [record.event_id for record in reversed(records)]


async def until_notifying(database: Database, room_id: RoomID, expected: list[EventID]) -> None:
    with trio.fail_after(SOON_S):
        while await notifying(database, room_id) != expected:
            await trio.lowlevel.checkpoint()


async def test_event_that_a_slow_writer_commits_behind_those_read_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missed_events, "PAGE_SIZE", 1)
    neighbours = WithSlowWriter()
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE, join=[BOB])
        sent = [await writing.send(room_id, ALICE, str(number)) for number in range(4)]
        late = {sent[1].event_id, sent[3].event_id}
        rows = [(number, row) for number, row in writing.seen if row.event_id in late]
        visible = len(writing.seen) - len(late)

        async def commit(number: int) -> None:
            # Its first event is below the last one that was read by now, its second above.
            if number == visible + 1:
                await database.write(set_status, late, EventStatus.ACCEPTED)
                before = neighbours.position
                for position, row in rows:
                    batch = Batch(EVENTS, "slow", before, position, [(position, row)])
                    neighbours.feed.deliver(batch)
                    before = position

        await database.write(set_status, late, EventStatus.OUTLIER)
        neighbours.position = sent[0].stream_id
        watched: Any = WatchedDatabase(database, push_rules.list_events_after, commit)
        async with open_world(watched, evaluating_settings(), neighbours=neighbours):
            await until_notifying(database, room_id, [event.event_id for event in sent])


async def test_missed_invite_to_a_room_of_another_server_notifies(database: Database) -> None:
    history = History("11")
    history.begin()
    invite = history.add(ADMIN, "m.room.member", {"membership": "invite"}, BOB)
    neighbours = Neighbourhood()
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        outside = writing.process.services.core.rooms.outside
        membership = OutsideMembership("11", invite.canonical, b"[]")
        assert await outside.store(invite.room_id, membership)
        async with open_world(database, evaluating_settings(), neighbours=neighbours):
            await until_notifying(database, invite.room_id, [invite.event_id])


async def test_other_tasks_run_while_a_large_batch_is_evaluated(database: Database) -> None:
    turns = 0
    evaluated: list[tuple[int, int]] = []

    def note(batch: Batch[UnreadRow]) -> None:
        evaluated.extend((turns, len(row.unread)) for _, row in batch.rows)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with open_world(database) as world, trio.open_nursery() as nursery:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, ALICE)
        await until_unread(world, BOB, room_id, 1)
        nursery.start_soon(take_turns)
        world.feed.subscribe(UNREAD, note)

        deliver(world, *[world.seen[-1][1]] * (10 * ROWS_AT_ONCE))

        await until_unread(world, BOB, room_id, 1 + 10 * ROWS_AT_ONCE)
        assert [count for _, count in evaluated] == [ROWS_AT_ONCE] * 10
        # Tasks run in any order, once in each round of the scheduler.
        assert evaluated[-1][0] - evaluated[0][0] >= 8
        nursery.cancel_scope.cancel()


async def test_missed_events_are_read_together_and_evaluated_as_delivered_ones(
    database: Database,
) -> None:
    """A page of joins, new names, replies, mentions and redactions needs a few reads."""
    neighbours = Neighbourhood()
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE, join=[BOB])
        root = await writing.send(room_id, ALICE)
        for number in range(10):
            await writing.append(room_id, reply_to(root.event_id))
            content = {"membership": "join", "displayname": f"Bob {number}"}
            await writing.set_state(room_id, BOB, event_types.MEMBER, content, BOB)
            sent = await writing.send(room_id, ALICE)
            await writing.redact(room_id, ALICE, sent.event_id)
        mention = {"msgtype": "m.text", "body": "all", "m.mentions": {"room": True}}
        await writing.append(room_id, Draft(event_types.MESSAGE, ALICE, mention))
        reads: list[str] = []

        watched: Any = CountingReads(database, reads)
        async with open_world(watched, evaluating_settings(), neighbours=neighbours) as world:
            # Bob's join has read what was before it; his new names have not.
            await until_unread(world, BOB, room_id, 12)
            counts = await world.process.services.push.counts.counts(BOB, [room_id])

    assert counts[room_id].total().highlights == 1
    assert len([name for name in reads if name in ("find", "single_entries")]) <= 5


async def test_process_serves_while_missed_events_are_evaluated(database: Database) -> None:
    neighbours = Neighbourhood()
    released = trio.Event()

    async def block(number: int) -> None:
        await released.wait()

    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE, join=[BOB])
        await writing.send(room_id, ALICE)
        watched: Any = WatchedDatabase(database, push_rules.list_events_after, block)
        async with open_world(watched, evaluating_settings(), neighbours=neighbours) as world:
            counts = world.process.services.push.counts
            duty = world.process.services.push.evaluation
            assert duty is not None

            assert await counts.counts(BOB, [room_id]) == {}
            await trio.testing.wait_all_tasks_blocked()
            assert duty.waiting > 0
            released.set()
            await until_unread(world, BOB, room_id, 1)
            with trio.fail_after(SOON_S):
                while duty.waiting:
                    await trio.lowlevel.checkpoint()
