"""A log, a table and caches with which followers are tested."""

import attrs
import trio

from hs.core.stream_def import StreamDef, StreamKind
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.followers import KeyFollower, TableFollower

KEYS = ("a", "b", "c")


class LoadFailed(Exception):
    """What reading raises in these tests."""


@attrs.frozen
class Change:
    """A row: the number of the change, and the key that it changes."""

    number: int
    key: str


CHANGES = StreamDef("changes", Change, StreamKind.MEMORY)


@attrs.frozen
class ReadPlan:
    """How a read goes: the seconds before and after it sees the table, and its end."""

    before_s: float = 0.1
    after_s: float = 0.1
    fails: bool = False


@attrs.define(eq=False)
class Log:
    """A table, and its stream, which is published later."""

    feed: Feed = attrs.Factory(Feed)
    table: list[Change] = attrs.Factory(list)
    published: int = 0
    plans: list[ReadPlan] = attrs.Factory(list)
    reads: list[list[str]] = attrs.Factory(list)

    def commit(self, key: str) -> None:
        self.table.append(Change(len(self.table) + 1, key))

    def publish(self, count: int = 1, *, reset: bool = False) -> None:
        """Deliver rows, or those that a reset has left: none."""
        changes = self.table[self.published : self.published + count]
        before, self.published = self.published, self.published + len(changes)
        rows = [] if reset else [(change.number, change) for change in changes]
        self.feed.deliver(
            Batch(
                stream=CHANGES,
                writer="w",
                prev=before,
                position=self.published,
                rows=rows,
                reset=reset,
            )
        )

    async def read(self, keys: list[str]) -> dict[str, tuple[int, ...]]:
        self.reads.append(keys)
        plan = self.plans.pop(0) if self.plans else ReadPlan()
        await trio.sleep(plan.before_s)
        found = {key: self.stored(key) for key in keys}
        await trio.sleep(plan.after_s)
        if plan.fails:
            raise LoadFailed
        return found

    def stored(self, key: str) -> tuple[int, ...]:
        return tuple(change.number for change in self.table if change.key == key)

    def delivered(self, key: str) -> tuple[int, ...]:
        return tuple(row.number for row in self.table[: self.published] if row.key == key)

    def with_row(self, numbers: tuple[int, ...], row: Change) -> tuple[int, ...]:
        """Apply a row. One that is there already changes nothing; the one before must be there."""
        if numbers and row.number <= numbers[-1]:
            return numbers
        after = (*numbers, row.number)
        assert after == self.stored(row.key)[: len(after)]
        return after


class WholeTable:
    """The changes of all keys, by a TableFollower."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.values: dict[str, tuple[int, ...]] = {}
        self.errors: list[Exception] = []
        self.follower = TableFollower(log.feed, CHANGES, self._read, self._replace, self._apply)

    def check(self) -> None:
        """Check that all that was delivered is here."""
        assert not self.errors
        for key in KEYS:
            delivered = self.log.delivered(key)
            assert self.values.get(key, ())[: len(delivered)] == delivered

    async def _read(self) -> dict[str, tuple[int, ...]]:
        return await self.log.read(list(KEYS))

    def _replace(self, snapshot: dict[str, tuple[int, ...]]) -> None:
        self.values = dict(snapshot)

    def _apply(self, row: Change) -> None:
        try:
            self.values[row.key] = self.log.with_row(self.values.get(row.key, ()), row)
        except AssertionError as error:  # the feed would only log it
            self.errors.append(error)
            raise


@attrs.define(eq=False)
class Value:
    """A value that rows change in place."""

    numbers: tuple[int, ...]


class CachedKeys:
    """The changes of some keys, by a KeyFollower."""

    def __init__(self, log: Log, max_entries: int = 10) -> None:
        self.log = log
        self.errors: list[BaseException] = []
        self.cache: LruCache[str, Value] = LruCache("test", max_entries=max_entries)
        self.follower = KeyFollower(self.cache, self._load, self._apply)
        log.feed.subscribe(CHANGES, self._on_rows)

    def check(self, key: str, value: Value) -> None:
        """Check that all that was delivered is in a value that was returned, if it is kept."""
        assert not self.errors
        delivered = self.log.delivered(key)
        assert value.numbers == self.log.stored(key)[: len(value.numbers)]
        if self.cache.get(key) is value:
            assert value.numbers[: len(delivered)] == delivered

    async def _load(self, keys: list[str]) -> dict[str, Value]:
        return {key: Value(numbers) for key, numbers in (await self.log.read(keys)).items()}

    def _apply(self, value: Value, row: Change) -> Value:
        try:
            numbers = self.log.with_row(value.numbers, row)
        except AssertionError as error:
            self.errors.append(error)
            raise
        if row.number % 2:
            return Value(numbers)
        value.numbers = numbers
        return value

    def _on_rows(self, batch: Batch[Change]) -> None:
        if batch.reset:
            self.follower.invalidate_all()
        for _, row in batch.rows:
            self.follower.update(row.key, row)
