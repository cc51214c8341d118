"""Followers: whatever arrives while they read, nothing is lost and nothing goes back."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

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


# The whole table


async def test_rows_delivered_during_the_read_are_applied_after_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = Log(plans=[ReadPlan(0, 1.0)])
    whole = WholeTable(log)
    log.commit("a")

    nursery.start_soon(whole.follower.load)
    await wait_all_tasks_blocked()
    for key in ("a", "b"):
        log.commit(key)
        log.publish(2)
    assert not whole.follower.is_loaded
    await whole.follower.load()

    assert whole.values == {"a": (1, 2), "b": (3,), "c": ()}
    assert len(log.reads) == 1


async def test_rows_before_the_first_read_are_left_to_it(autojump_clock: MockClock) -> None:
    log = Log()
    whole = WholeTable(log)
    log.commit("a")
    log.publish()
    assert whole.values == {}

    await whole.follower.load()
    log.commit("a")
    log.publish()

    assert whole.values["a"] == (1, 2)


async def test_a_row_that_was_in_the_snapshot_is_not_added_to_it_again(
    autojump_clock: MockClock,
) -> None:
    log = Log()
    whole = WholeTable(log)
    log.commit("a")

    await whole.follower.load()
    log.publish()

    assert whole.values["a"] == (1,)


async def test_a_failed_load_is_repeated_by_the_next_call(autojump_clock: MockClock) -> None:
    log = Log(plans=[ReadPlan(fails=True)])
    whole = WholeTable(log)
    errors: list[int] = []

    async def load() -> None:
        try:
            await whole.follower.load()
        except LoadFailed:
            errors.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        nursery.start_soon(load)
    log.commit("a")
    log.publish()
    await whole.follower.load()

    assert len(errors) == 2
    assert whole.values["a"] == (1,)
    assert len(log.reads) == 2


async def test_data_is_read_again_after_a_reset(autojump_clock: MockClock) -> None:
    log = Log()
    whole = WholeTable(log)
    await whole.follower.load()
    log.commit("a")

    log.publish(reset=True)
    assert not whole.follower.is_loaded
    await whole.follower.load()

    assert whole.values["a"] == (1,)


async def test_a_reset_during_the_read_repeats_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = Log(plans=[ReadPlan(0, 1.0)])
    whole = WholeTable(log)

    nursery.start_soon(whole.follower.load)
    await wait_all_tasks_blocked()
    log.commit("a")
    log.publish(reset=True)
    await whole.follower.load()

    assert whole.values["a"] == (1,)
    assert len(log.reads) == 2


# By key


async def test_rows_delivered_during_the_read_of_a_key_are_applied_after_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = Log(plans=[ReadPlan(0, 1.0)])
    keys = CachedKeys(log)

    nursery.start_soon(keys.follower.get, "a")
    await wait_all_tasks_blocked()
    assert "a" in keys.follower
    assert "b" not in keys.follower
    log.commit("a")
    log.publish()

    assert (await keys.follower.get("a")).numbers == (1,)
    assert log.reads == [["a"]]


async def test_concurrent_callers_for_overlapping_keys_share_reads(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = Log()
    keys = CachedKeys(log)

    nursery.start_soon(keys.follower.get_many, ("a", "b"))
    await wait_all_tasks_blocked()
    found = await keys.follower.get_many(("b", "c", "c"))

    assert set(found) == {"b", "c"}
    assert log.reads == [["a", "b"], ["c"]]
    assert set(await keys.follower.get_many(KEYS)) == set(KEYS)
    assert len(log.reads) == 2


async def test_a_kept_key_that_is_invalidated_is_read_again(autojump_clock: MockClock) -> None:
    log = Log()
    keys = CachedKeys(log)
    await keys.follower.get("a")
    log.commit("a")

    keys.follower.invalidate("a")

    assert (await keys.follower.get("a")).numbers == (1,)


async def test_a_key_that_is_invalidated_during_its_read_is_read_again_alone(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = Log(plans=[ReadPlan(0, 1.0)])
    keys = CachedKeys(log)
    found: dict[str, Value] = {}

    async def get() -> None:
        found.update(await keys.follower.get_many(KEYS))

    nursery.start_soon(get)
    await wait_all_tasks_blocked()
    log.commit("a")
    log.commit("b")
    keys.follower.invalidate("a")
    log.publish(2)
    await trio.sleep(5)

    assert found["a"].numbers == (1,)
    assert found["b"].numbers == (2,)
    assert log.reads == [[*KEYS], ["a"]]


@pytest.mark.parametrize("is_reading", [False, True])
async def test_all_keys_are_read_again_after_a_reset(
    autojump_clock: MockClock, nursery: trio.Nursery, *, is_reading: bool
) -> None:
    log = Log(plans=[ReadPlan(0, 1.0)])
    keys = CachedKeys(log)

    nursery.start_soon(keys.follower.get, "a")
    await trio.sleep(0.5 if is_reading else 5)
    log.commit("a")
    log.publish(reset=True)

    assert (await keys.follower.get("a")).numbers == (1,)
    assert log.reads == [["a"], ["a"]]


async def test_a_key_whose_read_failed_is_read_by_the_next_call(autojump_clock: MockClock) -> None:
    log = Log(plans=[ReadPlan(fails=True)])
    keys = CachedKeys(log)

    with pytest.raises(LoadFailed):
        await keys.follower.get("a")
    assert "a" not in keys.follower
    log.commit("a")
    log.publish()

    assert (await keys.follower.get("a")).numbers == (1,)


async def test_when_the_reading_task_is_cancelled_a_waiting_one_reads(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = Log(plans=[ReadPlan(100.0)])
    keys = CachedKeys(log)

    async def get_for_a_second() -> None:
        with trio.move_on_after(1):
            await keys.follower.get_many(("a", "b"))

    nursery.start_soon(get_for_a_second)
    await wait_all_tasks_blocked()
    value = await keys.follower.get("b")

    assert value.numbers == ()
    assert log.reads == [["a", "b"], ["b"]]


async def test_a_value_that_is_dropped_during_the_read_of_another_is_read_again(
    autojump_clock: MockClock,
) -> None:
    log = Log()
    keys = CachedKeys(log, max_entries=1)
    await keys.follower.get("a")

    found = await keys.follower.get_many(("a", "b"))

    assert set(found) == {"a", "b"}
    assert log.reads == [["a"], ["b"], ["a"]]


# Properties

plans = st.builds(
    ReadPlan,
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([False, False, False, True]),
)
steps = st.one_of(
    st.tuples(st.just("commit"), st.sampled_from(KEYS)),
    st.tuples(st.just("commit"), st.sampled_from(KEYS)),
    st.tuples(st.just("publish"), st.integers(1, 3)),
    st.tuples(st.just("publish"), st.integers(1, 3)),
    st.tuples(st.just("get"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)),
    st.tuples(st.just("get for a moment"), st.sampled_from(KEYS)),
    st.tuples(st.just("invalidate"), st.sampled_from(KEYS)),
    st.tuples(st.just("reset"), st.integers(0, 2)),
    st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.05, 0.15, 1.0])),
    st.tuples(st.just("sleep"), st.just(0.25)),
)
scripts = st.lists(steps, min_size=20, max_size=60)


def run_on_mock_clock(afn: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await afn()

    trio.run(run, clock=MockClock(autojump_threshold=0))


@given(scripts, st.lists(plans, max_size=12))
def test_a_loaded_table_has_all_that_was_delivered(
    script: list[tuple[str, object]], read_plans: list[ReadPlan]
) -> None:
    async def check() -> None:
        log = Log(plans=list(read_plans))
        whole = WholeTable(log)

        async def load(timeout_s: float) -> None:
            with trio.move_on_after(timeout_s):
                try:
                    await whole.follower.load()
                    whole.check()
                except LoadFailed:
                    pass

        async with trio.open_nursery() as nursery:
            for step, argument in script:
                await _play(log, step, argument)
                if step.startswith("get"):
                    nursery.start_soon(load, 0.07 if step == "get for a moment" else 1000.0)
                if whole.follower.is_loaded:
                    whole.check()
        log.plans.clear()
        log.publish(len(log.table))
        await whole.follower.load()
        whole.check()
        assert all(whole.values.get(key, ()) == log.stored(key) for key in KEYS)

    run_on_mock_clock(check)


@given(scripts, st.lists(plans, max_size=12), st.integers(1, 3))
def test_values_that_are_returned_and_kept_have_all_that_was_delivered(
    script: list[tuple[str, object]], read_plans: list[ReadPlan], max_entries: int
) -> None:
    async def check() -> None:
        log = Log(plans=list(read_plans))
        keys = CachedKeys(log, max_entries)

        async def get(wanted: list[str], timeout_s: float) -> None:
            before = {key: log.delivered(key) for key in wanted}
            with trio.move_on_after(timeout_s):
                try:
                    found = await keys.follower.get_many(wanted)
                except LoadFailed:
                    return
                for key in wanted:
                    keys.check(key, found[key])
                    assert found[key].numbers[: len(before[key])] == before[key]

        async with trio.open_nursery() as nursery:
            for step, argument in script:
                await _play(log, step, argument)
                if step == "get":
                    assert isinstance(argument, list)
                    nursery.start_soon(get, argument, 1000.0)
                elif step == "get for a moment":
                    nursery.start_soon(get, [str(argument)], 0.07)
                elif step == "invalidate":
                    keys.follower.invalidate(str(argument))
                for key in KEYS:
                    value = keys.cache.get(key)
                    if value is not None:
                        keys.check(key, value)
        log.plans.clear()
        log.publish(len(log.table))
        for key in KEYS:
            assert (await keys.follower.get(key)).numbers == log.stored(key)
            assert key in keys.follower
        assert not keys.errors

    run_on_mock_clock(check)


async def _play(log: Log, step: str, argument: object) -> None:
    if step == "commit":
        log.commit(str(argument))
    elif step == "publish":
        assert isinstance(argument, int)
        log.publish(argument)
    elif step == "reset":
        assert isinstance(argument, int)
        log.publish(argument, reset=True)
    elif step == "sleep":
        assert isinstance(argument, float)
        await trio.sleep(argument)
