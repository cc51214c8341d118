"""Rows whose evaluation needs what is no longer there, or does not stay in memory."""

from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import pytest

from hs.core.events import event_types
from hs.core.requester import Requester
from hs.core.streams import THREAD_SUBSCRIPTIONS, EventRow, ThreadSubscriptionRow
from hs.repl.entry_retries import MAX_FAILURES
from hs.repl.feed import Batch, Feed
from hs.services.push.evaluation import display_names, event_context, row_evaluation
from hs.services.push.evaluation.event_results import EventResults
from hs.services.push.evaluation.row_evaluation import RowEvaluation
from hs.services.push.rules.push_rules import PushRuleService
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store import memberships
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database, DatabaseError, DatabaseTimeout, DatabaseUnavailable
from hs.storage.rooms import thread_subscriptions
from tests.support.composition import Neighbourhood
from tests.support.evaluating import (
    deliver,
    evaluating_settings,
    reply_to,
    until_unread,
    writing_settings,
)
from tests.support.rooms import ALICE, BOB, CAROL, open_world
from tests.support.unread import WITH_THREADS


async def test_events_of_a_room_whose_members_do_not_stay_in_memory_notify_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memberships, "MAX_ROOM_BYTES", 0)
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])

        for _ in range(2):
            await world.send(room_id, ALICE)

        await until_unread(world, BOB, room_id, 2)


async def test_missed_events_of_a_room_whose_members_do_not_stay_in_memory_notify_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memberships, "MAX_ROOM_BYTES", 0)
    neighbours = Neighbourhood()
    async with open_world(database, writing_settings(), neighbours=neighbours) as writing:
        room_id = await writing.create_room(ALICE, join=[BOB])
        await writing.send(room_id, ALICE)

        async with open_world(database, evaluating_settings(), neighbours=neighbours) as world:
            await until_unread(world, BOB, room_id, 1)


async def test_power_levels_that_do_not_stay_in_memory_are_used_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_context, "MAX_SNAPSHOTS", 0)
    monkeypatch.setattr(event_context, "MAX_RELATIONS", 0)
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])

        content = {"msgtype": "m.text", "body": "all", "m.mentions": {"room": True}}
        await world.append(room_id, Draft(event_types.MESSAGE, ALICE, content))

        await until_unread(world, BOB, room_id, 1)
        counts = await world.process.services.push.counts.counts(BOB, [room_id])
        assert counts[room_id].total().highlights == 1


async def test_rules_read_more_display_names_than_stay_in_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display_names, "MAX_NAMES", 1)
    async with open_world(database) as world:
        core, push = world.process.services.core, world.process.services.push
        rules = PushRuleService(push.rules, core.rules_writer)
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        rule = {"actions": [], "conditions": [{"kind": "contains_display_name"}]}
        for user_id, name in ((BOB, "Bobby"), (CAROL, "Caroline")):
            content = {"membership": "join", "displayname": name}
            await world.set_state(room_id, user_id, event_types.MEMBER, content, user_id)
            await rules.put(Requester(user_id), "override", "name", rule, None, None)

        await world.send(room_id, ALICE, "not for bobby")
        await world.send(room_id, ALICE, "not for caroline")
        await world.send(room_id, ALICE, "for both")

        await until_unread(world, BOB, room_id, 2)
        await until_unread(world, CAROL, room_id, 2)


@attrs.define(eq=False)
class BusyThread:
    """A database: after each read of a thread's subscribers, Bob's subscription arrives."""

    real: Database
    feed: Feed | None = None
    reads: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def read(self, unit: Callable[..., Any], *args: Any) -> Any:
        found = await self.real.read(unit, *args)
        if unit is thread_subscriptions.list_subscribers:
            assert self.feed is not None
            room_id, root_id = args
            row = ThreadSubscriptionRow(BOB, room_id, root_id, True)
            before, self.reads = self.reads, self.reads + 1
            rows = [(self.reads, row)]
            self.feed.deliver(Batch(THREAD_SUBSCRIPTIONS, "main", before, self.reads, rows))
        return found


async def test_subscription_that_arrives_while_subscribers_are_read_is_respected(
    database: Database,
) -> None:
    busy: Any = BusyThread(database)
    async with open_world(busy, WITH_THREADS) as world:
        busy.feed = world.feed
        room_id = await world.create_room(ALICE, join=[BOB])
        root_id = (await world.send(room_id, ALICE)).event_id

        await world.append(room_id, reply_to(root_id))

        await until_unread(world, BOB, room_id, 2)
        assert busy.reads == 1


async def test_event_that_was_purged_while_its_row_was_waiting_is_skipped(
    database: Database,
) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, ALICE)
        _, row = world.seen[-1]

        # Without a PDU, as read from the log of commits, the row does not bring the event.
        purged = msgspec.structs.replace(row, event_id="$purged", pdu=None)
        deliver(world, purged, row, purged)

        await until_unread(world, BOB, room_id, 2)


async def test_redaction_of_a_purged_event_is_evaluated(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        sent = await world.send(room_id, ALICE)
        await world.redact(room_id, ALICE, sent.event_id)
        await world.send(room_id, ALICE)
        (_, redaction), (_, message) = world.seen[-2:]

        deliver(world, msgspec.structs.replace(redaction, redacts="$purged"), message)

        await until_unread(world, BOB, room_id, 2)


class FailingEvaluator:
    """An evaluator with a defect."""

    def evaluate_nowait(self, row: EventRow) -> None:
        raise ZeroDivisionError

    async def evaluate(self, row: EventRow) -> None:
        raise ZeroDivisionError


async def test_event_whose_evaluation_fails_is_logged_and_notifies_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    evaluator: Any = FailingEvaluator()
    unused: Any = None
    rows = RowEvaluation(evaluator, events=unused, members=unused, queue=unused, is_on=True)
    row = EventRow(
        room_id="!room:test.example",
        event_id="$event",
        type="m.room.message",
        sender=ALICE,
        state_key=None,
        depth=1,
        origin_server_ts=1,
    )
    results = EventResults()

    rows.evaluate_nowait(results, 1, row)
    await rows.evaluate(results, 1, row)

    assert not results
    assert [record.getMessage() for record in caplog.records] == [
        "the evaluation of event $event failed, it notifies nobody"
    ] * 2


@pytest.mark.parametrize(
    ("failures", "is_skipped"),
    [
        ([DatabaseError("out of memory")], False),
        ([DatabaseTimeout("slow")] * (MAX_FAILURES - 1), False),
        ([DatabaseTimeout("slow")] * MAX_FAILURES, True),
        ([DatabaseUnavailable("away")] * (2 * MAX_FAILURES), False),
    ],
)
async def test_failed_reads_are_repeated_a_bounded_number_of_times(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    failures: list[Exception],
    is_skipped: bool,
) -> None:
    monkeypatch.setattr(event_context, "MAX_SNAPSHOTS", 0)  # so that power levels are read
    for pause in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(row_evaluation, pause, 0.001)
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        content = {"msgtype": "m.text", "body": "all", "m.mentions": {"room": True}}
        await world.append(room_id, Draft(event_types.MESSAGE, ALICE, content))
        await until_unread(world, BOB, room_id, 1)
        left = list(failures)
        snapshot_entries = StateStore.snapshot_entries

        async def fail_first(self: StateStore, *arguments: Any) -> Any:
            if left:
                raise left.pop()
            return await snapshot_entries(self, *arguments)

        monkeypatch.setattr(StateStore, "snapshot_entries", fail_first)
        deliver(world, *[world.seen[-1][1]] * 2)

        await until_unread(world, BOB, room_id, 2 if is_skipped else 3)


class FailingQueue:
    """A queue of notifications with a defect."""

    def number(self, *arguments: Any) -> None:
        raise ZeroDivisionError


async def test_event_whose_result_cannot_be_recorded_is_logged_and_changes_nothing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    queue: Any = FailingQueue()
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, ALICE)
        await until_unread(world, BOB, room_id, 1)
        duty = world.process.services.push.evaluation
        assert duty is not None
        rows = attrs.evolve(duty._rows, queue=queue)
        results = EventResults()

        rows.evaluate_nowait(results, *world.seen[-1])
        await rows.evaluate(results, *world.seen[-1])

    assert not results
    assert results.outcomes == []
    failed = f"the evaluation of event {world.seen[-1][1].event_id} failed, it notifies nobody"
    assert [record.getMessage() for record in caplog.records].count(failed) == 2
