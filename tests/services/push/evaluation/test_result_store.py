"""Results of the evaluation: stored together with their position, and none of them twice."""

from collections.abc import Sequence

import attrs
import pytest
import trio

from hs.core.ids import UserID
from hs.core.push.evaluate import Outcome
from hs.core.streams import PUSHES, UNREAD, EventRow, PushesRow, QueuedPush, UnreadRow
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import InProcHub
from hs.repl.memory_writer import MemoryWriter
from hs.services.push.evaluation.event_evaluation import Difference, Evaluation
from hs.services.push.evaluation.event_results import EventResults
from hs.services.push.evaluation.push_queue import PushQueue
from hs.services.push.evaluation.result_store import MAX_UNSTORED_BATCHES, ResultStore, ResultTables
from hs.services.push.evaluation.users_with_pushers import UsersWithPushers
from hs.storage.database import Database, DatabaseUnavailable
from hs.storage.push.push_rules import Evaluated

ROW = EventRow(
    room_id="!r",
    event_id="$e",
    type="m.room.message",
    sender="@ada:test",
    state_key=None,
    depth=1,
    origin_server_ts=2,
)
NOTIFY = Outcome(".m.rule.message", ("notify",), notify=True)
LOUD = Outcome(".m.rule.mention", ("notify", {"set_tweak": "highlight"}), True, highlight=True)


def make_results(*stream_ids: int) -> EventResults:
    """Return the results of messages that notify all users, and mention Bob."""
    results = EventResults()
    for stream_id in stream_ids:
        difference = Difference(UserID("@bob:test"), 0, 1, LOUD)
        results.add_evaluation(stream_id, ROW, Evaluation("main", NOTIFY, (difference,)))
        results.marks.append(("@ada:test", "!r", "main", stream_id))
        results.pushes.append(
            QueuedPush(
                seq=stream_id,
                stream_id=stream_id,
                room_id="!r",
                event_id="$e",
                thread_id="main",
                actions="[]",
                added_ms=0,
                user_ids=("@bob:test",),
            )
        )
    return results


@attrs.define(eq=False)
class Tables:
    """Tables that record what is written, after the configured faults."""

    written: list[Evaluated] = attrs.Factory(list)
    faults: list[Exception] = attrs.Factory(list)
    began: trio.Event = attrs.Factory(trio.Event)
    may_end: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        self.may_end.set()

    async def write(self, evaluated: Evaluated) -> None:
        self.began.set()
        await self.may_end.wait()
        if self.faults:
            raise self.faults.pop(0)
        self.written.append(evaluated)

    def outcomes(self) -> list[list[int]]:
        return [[outcome.stream_id for outcome in results.outcomes] for results in self.written]


@attrs.define(eq=False)
class Scene:
    """A store over recording tables, and what it announces."""

    store: ResultStore
    tables: Tables
    unread: list[UnreadRow] = attrs.Factory(list)
    pushes: list[int] = attrs.Factory(list)


def make_scene() -> Scene:
    feed, tables = Feed(), Tables()
    transport = InProcHub().join(feed)
    unread = MemoryWriter(UNREAD, "main", transport, 1000)
    pushes = MemoryWriter(PUSHES, "main", transport, 1000)
    unread.attach()
    pushes.attach()
    database: Database = tables  # type: ignore[assignment]  # never asked
    queue = PushQueue(database, pushes, lambda: 0, UsersWithPushers(database, feed))
    guarded: ResultTables = tables  # type: ignore[assignment]  # only writes are asked of it
    scene = Scene(ResultStore(guarded, unread, queue), tables)

    def on_unread(batch: Batch[UnreadRow]) -> None:
        scene.unread += [row for _, row in batch.rows]

    def on_pushes(batch: Batch[PushesRow]) -> None:
        scene.pushes += [push.seq for _, row in batch.rows for push in row.pushes]

    feed.subscribe(UNREAD, on_unread)
    feed.subscribe(PUSHES, on_pushes)
    return scene


def positions(written: Sequence[Evaluated]) -> list[str]:
    return [results.position for results in written]


async def test_results_are_announced_at_once_and_stored_together() -> None:
    scene = make_scene()

    scene.store.publish(make_results(5), "w", 5)
    scene.store.publish(make_results(7), "w", 8)
    announced_before = list(scene.pushes)
    await scene.store.flush()

    assert [(row.upto, row.stored) for row in scene.unread] == [(5, 0), (8, 0)]
    assert [[unread.stream_id for unread in row.unread] for row in scene.unread] == [[5], [7]]
    [written] = scene.tables.written
    assert scene.tables.outcomes() == [[5, 7]]
    assert [exception.actions for exception in written.exceptions] == [
        '["notify",{"set_tweak":"highlight"}]',
        '["notify",{"set_tweak":"highlight"}]',
    ]
    assert written.marks == [("@ada:test", "!r", "main", 7)]
    assert [push.user_id for push in written.queue] == ["@bob:test"] * 2
    assert written.position == "0~w.8"
    assert announced_before == []
    assert scene.pushes == [5, 7]
    assert (scene.store.progress.stored, scene.store.progress.evaluated) == (1002, "0~w.8")


async def test_results_published_during_a_write_wait_for_the_next() -> None:
    scene = make_scene()
    scene.tables.may_end = trio.Event()
    scene.store.publish(make_results(5), "w", 5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.store.flush)
        await scene.tables.began.wait()
        scene.store.publish(make_results(6), "w", 6)
        scene.tables.may_end.set()
    await scene.store.flush()

    assert scene.tables.outcomes() == [[5], [6]]
    assert positions(scene.tables.written) == ["0~w.5", "0~w.6"]


async def test_results_of_a_failed_write_stay_pending_in_their_order() -> None:
    scene = make_scene()
    scene.tables.faults.append(DatabaseUnavailable("away"))
    scene.store.publish(make_results(5), "w", 5)

    with pytest.raises(DatabaseUnavailable):
        await scene.store.flush()
    announced, progress = list(scene.pushes), scene.store.progress
    scene.store.publish(make_results(6), "w", 6)
    await scene.store.flush()

    assert (announced, progress.evaluated) == ([], "0")
    assert scene.tables.outcomes() == [[5, 6]]
    assert scene.pushes == [5, 6]


async def test_results_of_a_cancelled_write_stay_pending() -> None:
    scene = make_scene()
    scene.tables.may_end = trio.Event()
    scene.store.publish(make_results(5), "w", 5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.store.flush)
        await scene.tables.began.wait()
        nursery.cancel_scope.cancel()
    scene.tables.may_end.set()
    await scene.store.flush()

    assert scene.tables.outcomes() == [[5]]


async def test_a_position_without_results_is_stored_after_many_batches_or_on_demand() -> None:
    scene = make_scene()
    for number in range(1, MAX_UNSTORED_BATCHES):
        scene.store.publish(EventResults(), "w", number)
    with trio.move_on_after(0) as early:
        await scene.store.wait_for_work()
    scene.store.publish(EventResults(), "w", MAX_UNSTORED_BATCHES)

    await scene.store.wait_for_work()
    await scene.store.flush()
    await scene.store.flush()

    assert early.cancelled_caught
    assert positions(scene.tables.written) == [f"0~w.{MAX_UNSTORED_BATCHES}"]
