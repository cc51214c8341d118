"""The feed delivers in order, computes vector positions and wakes waiters."""

import logging

import pytest
import trio

from hs.repl.feed import Batch, Feed
from tests.repl.conftest import NOTES, Note


def batch(writer: str, prev: int, position: int, reset: bool = False) -> Batch[Note]:
    rows = [(number, Note(f"{writer}{number}")) for number in range(prev + 1, position + 1)]
    return Batch(NOTES, writer, prev, position, rows, reset=reset)


def texts(batches: list[Batch[Note]]) -> list[str]:
    return [row.text for delivered in batches for _, row in delivered.rows]


def test_position_is_a_number_if_writers_agree_and_a_vector_otherwise() -> None:
    feed = Feed()
    feed.start_at(NOTES, "w1", 10)
    feed.start_at(NOTES, "w2", 10)

    assert feed.position(NOTES).encode() == "10"
    feed.deliver(batch("w2", 10, 12))
    assert feed.position(NOTES).encode() == "10~w2.12"
    feed.deliver(batch("w1", 10, 13))
    assert feed.position(NOTES).encode() == "12~w1.13"


def test_stream_is_settled_up_to_its_slowest_writer() -> None:
    feed, settled = Feed(), list[int]()
    feed.start_at(NOTES, "w1", 10)
    feed.start_at(NOTES, "w2", 10)
    feed.subscribe(NOTES, lambda delivered: settled.append(feed.settled(delivered)))

    feed.deliver(batch("w2", 10, 15))
    feed.deliver(batch("w1", 10, 12))
    feed.deliver(batch("w1", 12, 20))

    assert settled == [10, 12, 15]


def test_batch_published_during_a_delivery_follows_it_for_all_subscribers() -> None:
    feed = Feed()
    first: list[Batch[Note]] = []
    second: list[Batch[Note]] = []

    def echo(delivered: Batch[Note]) -> None:
        first.append(delivered)
        if delivered.position == 1:
            feed.deliver(batch("a", 1, 2))

    feed.subscribe(NOTES, echo)
    feed.subscribe(NOTES, second.append)
    feed.deliver(batch("a", 0, 1))

    assert texts(first) == texts(second) == ["a1", "a2"]


def test_failing_subscriber_does_not_affect_the_others(caplog: pytest.LogCaptureFixture) -> None:
    feed = Feed()
    delivered: list[Batch[Note]] = []

    def fail(_: Batch[Note]) -> None:
        raise RuntimeError("no")

    feed.subscribe(NOTES, fail)
    feed.subscribe(NOTES, delivered.append)
    with caplog.at_level(logging.CRITICAL):
        feed.deliver(batch("a", 0, 1))

    assert texts(delivered) == ["a1"]


async def test_waiter_is_woken_by_its_own_writer_only(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    feed = Feed()
    results: list[bool] = []

    async def wait() -> None:
        results.append(await feed.wait_for(NOTES, "a", 2, 10))

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    feed.deliver(batch("b", 0, 5))
    feed.deliver(batch("a", 0, 1))
    await trio.testing.wait_all_tasks_blocked()
    assert results == []
    feed.deliver(batch("a", 1, 2))
    await trio.testing.wait_all_tasks_blocked()

    assert results == [True]


async def test_wait_ends_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    feed = Feed()

    assert not await feed.wait_for(NOTES, "a", 2, 10)
    feed.deliver(batch("a", 0, 5))
    assert await feed.wait_for(NOTES, "a", 2, 0)


async def test_wait_for_a_vector_covers_all_its_writers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ahead, behind = Feed(), Feed()
    for feed in (ahead, behind):
        feed.start_at(NOTES, "a", 1)
        feed.start_at(NOTES, "b", 1)
    ahead.deliver(batch("a", 1, 3))

    assert not await behind.wait_for_position(NOTES, ahead.position(NOTES), 1)
    behind.deliver(batch("a", 1, 3))
    assert await behind.wait_for_position(NOTES, ahead.position(NOTES), 1)
