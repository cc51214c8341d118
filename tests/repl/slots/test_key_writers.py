"""Whose position covers the rows about a key, while its slot passes from one process to another."""

from hs.core.stream_def import ANY_PROCESS
from hs.core.streams import SLOTS as SLOTS_STREAM
from hs.core.streams import TO_DEVICE, SlotsRow
from hs.repl.feed import Batch, Feed
from hs.repl.slots.assignment import slot_of
from hs.repl.slots.key_writers import KeyWriters
from hs.repl.slots.table import SlotTable
from hs.storage.stream_slots import SlotRecord

ALICE = "@alice:test.example"
SLOT = slot_of(ALICE)


def passed(holder: str, epoch: int, before: str, end: int) -> SlotsRow:
    """Return the row about the slot of Alice, of which another process wrote up to `end`."""
    return SlotsRow("to_device", holder, ((SLOT, epoch),), (("to_device", before, end),))


def scene_of(feed: Feed) -> tuple[KeyWriters, SlotTable]:
    """Return the writers as a process sees them that starts when w1 holds the slot."""
    table = SlotTable("main", {"to_device": ("w1", "w2")})
    table.follow(feed)
    writers = KeyWriters(TO_DEVICE, feed)
    for writer in ("w1", "w2"):
        feed.start_at(TO_DEVICE, writer, 5)
    writers.begin([SlotRecord("to_device", SLOT, "w1", 1)])
    return writers, table


def deliver(feed: Feed, position: int, *rows: SlotsRow) -> None:
    """Deliver rows of the stream of slots."""
    numbered = [(position + index, row) for index, row in enumerate(rows)]
    last = position + len(rows) - 1
    feed.deliver(Batch(SLOTS_STREAM, ANY_PROCESS, position - 1, last, numbered))


def test_holder_before_counts_until_its_last_rows_are_there() -> None:
    feed = Feed()
    writers, table = scene_of(feed)

    deliver(feed, 1, passed("w2", 2, "w1", 9))
    before = writers.writer_of(ALICE)
    feed.start_at(TO_DEVICE, "w1", 9)

    assert (before, writers.writer_of(ALICE)) == ("w1", "w2")
    assert table.holder("to_device", ALICE) == "w2"


def test_changes_take_effect_one_after_the_other() -> None:
    feed = Feed()
    writers, _ = scene_of(feed)
    deliver(feed, 1, passed("w2", 2, "w1", 5), passed("w1", 3, "w2", 8))

    first = writers.writer_of(ALICE)
    feed.start_at(TO_DEVICE, "w2", 8)

    assert (first, writers.writer_of(ALICE)) == ("w2", "w1")


def test_change_that_was_known_at_the_start_is_ignored() -> None:
    feed = Feed()
    writers, _ = scene_of(feed)
    writers.begin([SlotRecord("to_device", SLOT, "w2", 4)])

    deliver(feed, 1, passed("w1", 3, "w2", 5))

    assert writers.writer_of(ALICE) == "w2"


def test_change_that_came_between_the_read_and_the_start_takes_effect_later() -> None:
    feed = Feed()
    writers, table = scene_of(feed)
    deliver(feed, 1, passed("w2", 2, "w1", 9))
    writers.begin([SlotRecord("to_device", SLOT, "w1", 1)])

    assert table.holder("to_device", ALICE) == "w2"
    assert writers.writer_of(ALICE) == "w1"


def test_writer_is_unknown_after_changes_were_missed() -> None:
    feed = Feed()
    writers, _ = scene_of(feed)

    feed.deliver(Batch(SLOTS_STREAM, ANY_PROCESS, 0, 9, [], reset=True))

    assert writers.writer_of(ALICE) is None
