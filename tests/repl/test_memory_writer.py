"""The rows that the writer of a memory stream remembers for readers that missed some."""

import attrs

from hs.repl.feed import Feed
from hs.repl.inproc import local_transport
from hs.repl.memory_writer import MemoryWriter, epoch_at
from tests.repl.conftest import HINTS, Note


def test_memory_writer_remembers_the_last_row_of_each_key() -> None:
    last_by_text = attrs.evolve(HINTS, key=lambda row: row.text)
    writer = MemoryWriter(last_by_text, "w1", local_transport(Feed()), epoch_at(1_000))
    start = writer.position
    for text in "abacada":
        writer.append_nowait([Note(text)])

    missed = writer.since(start + 1)
    all_rows = writer.since(0)
    for text in "efg":
        writer.append_nowait([Note(text)])
    forgotten = writer.since(start + 1)

    last_rows = [(2, "b"), (4, "c"), (6, "d"), (7, "a")]
    assert [(number - start, row.text) for number, row in missed.rows] == last_rows
    assert (missed.prev, missed.reset) == (start + 1, False)
    assert (all_rows.rows, all_rows.prev, all_rows.reset) == (missed.rows, start, True)
    assert [row.text for _, row in forgotten.rows] == list("daefg")
    # Nothing after this position was forgotten.
    assert (forgotten.prev, forgotten.reset) == (start + 4, True)


def test_rows_about_keys_that_were_lost_are_forgotten() -> None:
    stream = attrs.evolve(HINTS, owner_key=lambda row: row.text)
    writer = MemoryWriter(stream, "w1", local_transport(Feed()), epoch_at(1_000))
    for text in "abab":
        writer.append_nowait([Note(text)])

    writer.forget(lambda key: key == "a")

    assert [row.text for _, row in writer.since(0).rows] == ["b", "b"]
    assert writer.since(writer.position).rows == []
