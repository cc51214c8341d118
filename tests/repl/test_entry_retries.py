"""How often the work of the entry at the head of a queue is repeated."""

from hs.core.errors import Unavailable
from hs.repl.entry_retries import MAX_FAILURES, EntryRetries
from hs.storage.database import (
    CommitUnknown,
    DatabaseConflict,
    DatabaseTimeout,
    DatabaseUnavailable,
)


def test_an_entry_that_always_fails_is_skipped_at_the_limit() -> None:
    retries: EntryRetries[str] = EntryRetries()
    pair: list[Unavailable] = [DatabaseTimeout("slow"), DatabaseConflict("busy")]
    failures = pair * (MAX_FAILURES // 2)

    answers = [retries.may_retry("entry", failure) for failure in failures]

    assert answers == [*[True] * (MAX_FAILURES - 1), False]


def test_failures_are_counted_for_each_entry() -> None:
    retries: EntryRetries[str] = EntryRetries()
    for _ in range(MAX_FAILURES):
        retries.may_retry("first", DatabaseTimeout("slow"))

    assert retries.may_retry("second", DatabaseTimeout("slow"))


def test_an_entry_that_comes_again_has_all_its_tries() -> None:
    retries: EntryRetries[str] = EntryRetries()
    for _ in range(MAX_FAILURES - 1):
        assert retries.may_retry("entry", DatabaseTimeout("slow"))
    assert not retries.may_retry("entry", DatabaseTimeout("slow"))
    assert retries.may_retry("entry", DatabaseTimeout("slow"))

    for _ in range(MAX_FAILURES):
        assert retries.may_retry("entry", DatabaseTimeout("slow"))
        retries.succeeded()


def test_an_entry_outlives_any_absence_of_the_database() -> None:
    retries: EntryRetries[str] = EntryRetries()

    for error in (DatabaseUnavailable("away"), CommitUnknown("lost")) * MAX_FAILURES:
        assert retries.may_retry("entry", error)
    assert retries.may_retry("entry", DatabaseTimeout("slow"))
