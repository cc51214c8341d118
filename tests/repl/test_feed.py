"""The feed delivers in order, keeps vectors, and wakes those who wait."""

import logging

import pytest
import trio

from hs.repl.feed import Batch, Feed
from tests.repl.conftest import NOTES, Note


def batch(writer: str, prev: int, position: int, reset: bool = False) -> Batch[Note]:
    rows = [(number, Note(f"{writer}{number}")) for number in range(prev + 1, position + 1)]
    return Batch(NOTES, writer, prev, position, rows, reset)


def texts(got: list[Batch[Note]]) -> list[str]:
    return [row.text for one in got for _, row in one.rows]


def test_a_position_is_one_number_where_writers_agree_and_a_vector_where_not() -> None:
    feed = Feed()
    feed.start_at(NOTES, "w1", 10)
    feed.start_at(NOTES, "w2", 10)

    assert feed.position(NOTES).encode() == "10"
    feed.deliver(batch("w2", 10, 12))
    assert feed.position(NOTES).encode() == "10~w2.12"
    feed.deliver(batch("w1", 10, 13))
    assert feed.position(NOTES).encode() == "12~w1.13"


def test_a_batch_given_during_a_delivery_comes_after_it_for_everyone() -> None:
    feed = Feed()
    first: list[Batch[Note]] = []
    second: list[Batch[Note]] = []

    def echo(one: Batch[Note]) -> None:
        first.append(one)
        if one.position == 1:
            feed.deliver(batch("a", 1, 2))

    feed.subscribe(NOTES, echo)
    feed.subscribe(NOTES, second.append)
    feed.deliver(batch("a", 0, 1))

    assert texts(first) == texts(second) == ["a1", "a2"]


def test_a_failing_subscriber_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    feed = Feed()
    got: list[Batch[Note]] = []

    def fail(one: Batch[Note]) -> None:
        raise RuntimeError("no")

    feed.subscribe(NOTES, fail)
    feed.subscribe(NOTES, got.append)
    with caplog.at_level(logging.CRITICAL):
        feed.deliver(batch("a", 0, 1))

    assert texts(got) == ["a1"]


async def test_a_waiter_is_woken_by_its_own_writer_only(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    feed = Feed()
    seen: list[bool] = []

    async def wait() -> None:
        seen.append(await feed.wait_for(NOTES, "a", 2, 10))

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    feed.deliver(batch("b", 0, 5))
    feed.deliver(batch("a", 0, 1))
    await trio.testing.wait_all_tasks_blocked()
    assert seen == []
    feed.deliver(batch("a", 1, 2))
    await trio.testing.wait_all_tasks_blocked()

    assert seen == [True]


async def test_waiting_ends_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    feed = Feed()

    assert not await feed.wait_for(NOTES, "a", 2, 10)
    feed.deliver(batch("a", 0, 5))
    assert await feed.wait_for(NOTES, "a", 2, 0)


async def test_a_vector_is_waited_for_in_all_its_writers(
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
