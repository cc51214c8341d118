"""Queues from the feed: nothing is lost between arrival, failure and restart."""

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from hs.core.positions import VectorPosition
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, QueueOverflow, WhenFull
from tests.repl.conftest import NOTES, Note

DROPPING = (WhenFull.DROP_OLDEST, WhenFull.DROP_NEWEST)


class WorkFailed(Exception):
    """What the work raises in these tests."""


def batch(prev: int, position: int) -> Batch[Note]:
    rows = [(number, Note(str(number))) for number in range(prev + 1, position + 1)]
    return Batch(NOTES, "w", prev, position, rows)


def texts_of(batch: Batch[Note]) -> list[str]:
    return [row.text for _, row in batch.rows]


def full_queue(when_full: WhenFull, *entries: str) -> FeedQueue[str]:
    queue: FeedQueue[str] = FeedQueue("test", len(entries), when_full)
    for entry in entries:
        queue.put(entry)
    return queue


def waiting_in(queue: FeedQueue[str]) -> list[str]:
    taken: list[str] = []
    while queue:
        with queue.batch() as entries:
            taken += entries
    return taken


def fail_while(queue: FeedQueue[str], at_most: int, *entries: str) -> None:
    with queue.batch(at_most):
        for entry in entries:
            queue.put(entry)
        raise WorkFailed


async def test_entries_selected_from_the_feed_are_worked_on_in_order() -> None:
    feed = Feed()
    queue: FeedQueue[str] = FeedQueue("test", 10, WhenFull.DROP_OLDEST)
    queue.follow(feed, NOTES, texts_of)
    done: list[list[str]] = []

    async def work(entries: list[str]) -> None:
        done.append(entries)

    feed.deliver(batch(0, 3))
    assert queue.waiting == 3
    await queue.serve_waiting(work, at_most=2)

    assert done == [["1", "2"], ["3"]]
    assert queue.waiting == 0


async def test_a_waiting_task_is_woken_by_the_first_entry(nursery: trio.Nursery) -> None:
    queue: FeedQueue[str] = FeedQueue("test", 10, WhenFull.DROP_OLDEST)
    done: list[str] = []

    async def work(entries: list[str]) -> None:
        done.extend(entries)

    nursery.start_soon(lambda: queue.serve(work))
    for entry in ("a", "b"):
        await trio.testing.wait_all_tasks_blocked()
        queue.put(entry)
    await trio.testing.wait_all_tasks_blocked()

    assert done == ["a", "b"]
    nursery.cancel_scope.cancel()


async def test_entries_gather_before_a_batch_is_taken(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    queue: FeedQueue[str] = FeedQueue("test", 10, WhenFull.DROP_OLDEST)
    done: list[list[str]] = []

    async def work(entries: list[str]) -> None:
        done.append(entries)

    nursery.start_soon(lambda: queue.serve(work, at_most=5, gather_s=1.0))
    for entry in ("a", "b", "a"):
        queue.put(entry)
        await trio.sleep(0.1)
    await trio.sleep(5)

    assert done == [["a", "b"]]
    nursery.cancel_scope.cancel()


async def test_a_failed_batch_goes_back_before_later_entries() -> None:
    queue: FeedQueue[str] = FeedQueue("test", 10, WhenFull.DROP_OLDEST)
    for entry in ("a", "b", "c"):
        queue.put(entry)

    with pytest.raises(WorkFailed):
        fail_while(queue, 2, "d")

    assert queue.waiting == 4
    assert waiting_in(queue) == ["a", "b", "c", "d"]


async def test_a_cancelled_batch_goes_back() -> None:
    queue = full_queue(WhenFull.DROP_OLDEST, "a", "b")

    with trio.move_on_after(0), queue.batch():
        await trio.sleep_forever()

    assert waiting_in(queue) == ["a", "b"]


async def test_an_equal_entry_is_added_only_while_the_first_is_in_hand() -> None:
    queue: FeedQueue[str] = FeedQueue("test", 10, WhenFull.DROP_OLDEST)
    queue.put("a")
    queue.put("a")
    assert queue.waiting == 1

    with queue.batch():
        queue.put("a")

    assert waiting_in(queue) == ["a"]


def test_a_failed_entry_that_came_again_meanwhile_is_worked_on_once() -> None:
    queue: FeedQueue[str] = FeedQueue("test", 10, WhenFull.DROP_OLDEST)
    queue.put("a")

    with pytest.raises(WorkFailed):
        fail_while(queue, 1, "b", "a")

    assert queue.waiting == 2
    assert waiting_in(queue) == ["a", "b"]


@pytest.mark.parametrize(
    ("when_full", "left"),
    [(WhenFull.DROP_OLDEST, ["b", "c"]), (WhenFull.DROP_NEWEST, ["a", "b"])],
)
def test_a_full_queue_drops_one_entry(
    when_full: WhenFull, left: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    queue = full_queue(when_full, "a", "b")

    queue.put("c")

    assert queue.dropped == 1
    assert waiting_in(queue) == left
    assert "queue test is full" in caplog.text


def test_dropping_is_logged_each_time_the_number_has_doubled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = full_queue(WhenFull.DROP_OLDEST, "a")

    for number in range(8):
        queue.put(str(number))

    assert queue.dropped == 8
    assert len(caplog.records) == 4


async def test_an_overflow_ends_the_duty_until_the_queue_is_opened_again() -> None:
    queue: FeedQueue[str] = FeedQueue("test", 2, WhenFull.START_OVER, is_open=False)
    queue.put("closed")
    assert not queue

    with queue.opened():
        with queue.batch() as entries:
            assert entries == []
        for entry in ("a", "b", "c", "d"):
            queue.put(entry)
        assert queue.waiting == 0
        with pytest.raises(QueueOverflow):
            await queue.wait()
    with queue.opened():
        queue.put("e")
        await queue.wait()
        assert waiting_in(queue) == ["e"]


async def test_an_overflow_wakes_a_duty_that_has_the_entries_in_hand(
    nursery: trio.Nursery,
) -> None:
    queue: FeedQueue[str] = FeedQueue("test", 1, WhenFull.START_OVER)
    queue.put("a")
    failed: list[bool] = []

    async def work(entries: list[str]) -> None:
        await trio.sleep(1)

    async def serve() -> None:
        try:
            await queue.serve(work)
        except QueueOverflow:
            failed.append(True)

    nursery.start_soon(serve)
    await trio.testing.wait_all_tasks_blocked()
    queue.put("b")
    await trio.sleep(1.1)

    assert failed == [True]
    assert queue.waiting == 0


def test_a_batch_that_fails_after_an_overflow_does_not_go_back() -> None:
    queue = full_queue(WhenFull.START_OVER, "a", "b")

    with pytest.raises(WorkFailed):
        fail_while(queue, 1, "c")

    assert queue.waiting == 0
    assert queue  # the entries are to be read from tables


def test_a_queue_with_an_entry_in_hand_has_work_left() -> None:
    queue = full_queue(WhenFull.DROP_OLDEST, "a")

    with queue.batch():
        assert queue
    assert not queue


def test_a_queue_is_empty_when_it_is_opened_and_after_it_is_closed() -> None:
    queue = full_queue(WhenFull.START_OVER, "a", "b")

    with queue.opened():
        assert queue.waiting == 0
        queue.put("c")

    assert queue.waiting == 0
    queue.put("d")
    assert not queue


def test_a_queue_of_batches_counts_their_rows() -> None:
    feed = Feed()
    queue: FeedQueue[Batch[Note]] = FeedQueue(
        "test", 5, WhenFull.DROP_OLDEST, size=lambda batch: len(batch.rows)
    )
    queue.follow(feed, NOTES, lambda batch: (batch,))

    feed.deliver(batch(0, 2))
    feed.deliver(batch(2, 4))
    assert queue.waiting == 4
    feed.deliver(batch(4, 6))
    assert queue.waiting == 4
    assert queue.dropped == 1


# Properties

steps = st.lists(
    st.sampled_from(["put", "put", "put", "work", "fail", "cancel", "sleep"]),
    min_size=10,
    max_size=60,
)


@given(steps, st.integers(1, 4), st.integers(1, 4))
def test_every_entry_is_worked_on_in_order_whatever_fails(
    script: list[str], at_most: int, put_meanwhile: int
) -> None:
    outcomes = [step for step in script if step in ("work", "fail", "cancel")]

    async def check() -> None:
        queue: FeedQueue[int] = FeedQueue("test", 1000, WhenFull.DROP_OLDEST)
        put = 0
        done: list[int] = []

        async def work(entries: list[int]) -> None:
            nonlocal put
            outcome = outcomes.pop(0) if outcomes else "work"
            for _ in range(put_meanwhile if outcome != "work" else 0):
                queue.put(put)
                put += 1
            if outcome == "fail":
                raise WorkFailed
            await trio.sleep(0.01 if outcome == "work" else 1000)
            done.extend(entries)

        async def duty() -> None:
            while True:
                try:
                    with trio.move_on_after(500):
                        await queue.serve(work, at_most=at_most)
                except WorkFailed:
                    await trio.sleep(0.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(duty)
            for step in script:
                if step == "put":
                    queue.put(put)
                    put += 1
                elif step == "sleep":
                    await trio.sleep(1)
            await trio.sleep(1000 * (len(script) + 2))
            assert done == list(range(put))
            assert queue.waiting == 0
            nursery.cancel_scope.cancel()

    trio.run(check, clock=trio.testing.MockClock(autojump_threshold=0))


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "take", "fail"]), st.integers(0, 9)),
        min_size=20,
        max_size=80,
    ),
    st.integers(1, 6),
    st.sampled_from(DROPPING),
)
def test_a_queue_never_holds_more_than_its_bound(
    script: list[tuple[str, int]], limit: int, when_full: WhenFull
) -> None:
    queue: FeedQueue[int] = FeedQueue("test", limit, when_full)
    model: list[int] = []

    for step, number in script:
        if step == "put":
            queue.put(number)
            _put_into(model, number, limit, when_full)
        elif model and step == "take":
            with queue.batch(number + 1) as entries:
                assert entries == model[: number + 1]
            del model[: number + 1]
        elif model:
            with pytest.raises(WorkFailed), queue.batch(number + 1):
                raise WorkFailed
        assert queue.waiting == len(model) <= limit


def _put_into(model: list[int], number: int, limit: int, when_full: WhenFull) -> None:
    if number in model:
        return
    model.append(number)
    if len(model) > limit:
        del model[0 if when_full is WhenFull.DROP_OLDEST else -1]


class StoredLog:
    """A table of numbers, its stream, and a duty that works on each number once, in order.

    The duty stores its position with its result. Reading takes time and sees the table as it was
    when the reading began.
    """

    def __init__(self, limit: int, next_outcome: Callable[[], str]) -> None:
        self.table: list[int] = []
        self.results: list[int] = []
        self._feed = Feed()
        self._stored = VectorPosition()
        self._published = 0
        self._next_outcome = next_outcome
        self._queue: FeedQueue[Batch[Note]] = FeedQueue(
            "test",
            limit,
            WhenFull.START_OVER,
            is_open=False,
            size=lambda batch: len(batch.rows),
        )
        self._queue.follow(self._feed, NOTES, lambda batch: (batch,))

    def commit(self, count: int) -> None:
        self.table += range(len(self.table) + 1, len(self.table) + count + 1)

    def publish(self) -> None:
        if self._published < len(self.table):
            self._feed.deliver(batch(self._published, len(self.table)))
            self._published = len(self.table)

    async def run_for_ever(self) -> None:
        while True:
            try:
                await self._run()
            except (WorkFailed, QueueOverflow):
                await trio.sleep(0.5)

    async def _run(self) -> None:
        with self._queue.opened():
            begin = self._feed.position(NOTES)
            snapshot = list(self.table)
            assert snapshot == [] or begin.get("w") <= snapshot[-1]
            await self._step()
            for number in snapshot:
                await self._take(number)
            await self._queue.serve(self._work)

    async def _work(self, batches: list[Batch[Note]]) -> None:
        for number, _ in batches[0].rows:
            await self._take(number)

    async def _take(self, number: int) -> None:
        if self._stored.covers("w", number):
            return
        await self._step()
        self.results.append(number)
        self._stored = self._stored.advance("w", number)

    async def _step(self) -> None:
        await trio.sleep(0.1)
        if self._next_outcome() == "fail":
            raise WorkFailed


log_steps = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 3)),
    st.tuples(st.just("publish"), st.just(0)),
    st.tuples(st.just("sleep"), st.integers(1, 20)),
)


@given(
    st.lists(log_steps, min_size=10, max_size=40),
    st.lists(st.sampled_from(["work", "work", "fail"]), min_size=10, max_size=40),
    st.integers(2, 6),
)
def test_a_duty_that_starts_with_what_is_stored_takes_each_row_once_in_order(
    script: list[tuple[str, int]], outcomes: list[str], limit: int
) -> None:
    async def check() -> None:
        log = StoredLog(limit, lambda: outcomes.pop(0) if outcomes else "work")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run_for_ever)
            for step, number in script:
                if step == "commit":
                    log.commit(number)
                elif step == "publish":
                    log.publish()
                else:
                    await trio.sleep(number * 0.05)
            log.publish()
            await trio.sleep(10_000)
            assert log.results == log.table
            nursery.cancel_scope.cancel()

    trio.run(check, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_no_work_is_done_on_the_entries_of_an_overflow(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    queue = full_queue(WhenFull.START_OVER, "a", "b")
    done: list[list[str]] = []

    async def work(entries: list[str]) -> None:
        done.append(entries)

    async def overflow() -> None:
        await trio.sleep(0.5)
        queue.put("c")

    nursery.start_soon(overflow)
    with pytest.raises(QueueOverflow):
        await queue.serve(work, gather_s=1.0)

    assert done == []


async def test_other_tasks_run_while_a_long_queue_is_worked_on() -> None:
    queue: FeedQueue[int] = FeedQueue("test", 1_000_000, WhenFull.START_OVER)
    for number in range(100_000):
        queue.put(number)
    left: list[int] = []

    async def look() -> None:
        while queue:
            left.append(queue.waiting)
            await trio.lowlevel.checkpoint()

    async def work(entries: list[int]) -> None:
        """Work without yielding."""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await queue.serve_waiting(work)

    assert len(set(left)) > 2
