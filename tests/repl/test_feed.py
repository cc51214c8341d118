"""The feed delivers in order, computes vector positions and wakes waiters."""

import logging

import pytest
import trio

from hs.core.stream_def import StreamDef, StreamKind
from hs.repl.feed import Batch, Feed, Interest
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


# A note with a payload changes something.
MARKED = StreamDef("marked", Note, StreamKind.TABLE, is_plain=lambda row: row.payload is None)


def marked(prev: int, *notes: Note) -> Batch[Note]:
    return Batch(MARKED, "w1", prev, prev + len(notes), list(enumerate(notes, prev + 1)))


def test_subscriber_of_changes_gets_no_plain_rows() -> None:
    feed = Feed()
    everything, changes = list[Batch[Note]](), list[Batch[Note]]()
    feed.subscribe(MARKED, everything.append)
    feed.subscribe(MARKED, changes.append, Interest.CHANGES)

    feed.deliver(marked(0, Note("a"), Note("b", b"!"), Note("c")))
    feed.deliver(marked(3, Note("d")))

    assert texts(everything) == ["a", "b", "c", "d"]
    assert texts(changes) == ["b"]
    assert [(batch.prev, batch.position) for batch in changes] == [(0, 3)]


def test_subscriber_of_changes_gets_a_reset_without_rows() -> None:
    feed = Feed()
    changes: list[Batch[Note]] = []
    feed.subscribe(MARKED, changes.append, Interest.CHANGES)

    feed.deliver(Batch(MARKED, "w1", 0, 1, [(1, Note("a"))], reset=True))

    assert [(batch.rows, batch.reset) for batch in changes] == [([], True)]


def test_subscriber_of_positions_is_called_after_the_others_and_without_rows() -> None:
    feed = Feed()
    calls: list[tuple[str, int]] = []
    feed.subscribe(
        MARKED, lambda batch: calls.append(("position", batch.position)), Interest.POSITIONS
    )
    feed.subscribe(MARKED, lambda batch: calls.append(("rows", batch.position)))

    feed.deliver(marked(0, Note("a")))
    feed.deliver(Batch(MARKED, "w1", 1, 2, []))

    assert calls == [("rows", 1), ("position", 1), ("position", 2)]


@pytest.mark.parametrize(
    ("interest", "needs_plain"),
    [
        (Interest.ALL, True),
        (Interest.OWN, False),
        (Interest.CHANGES, False),
        (Interest.POSITIONS, False),
    ],
)
def test_plain_rows_of_others_are_needed_by_those_who_take_all(
    interest: Interest, needs_plain: bool
) -> None:
    feed = Feed()

    feed.subscribe(MARKED, lambda batch: None, interest)

    assert feed.needs_plain(MARKED) is needs_plain
