"""Followers: whatever arrives while they read, nothing is lost and nothing goes back."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.repl.follower_log import CachedKeys, LoadFailed, Log, ReadPlan, Value, WholeTable

KEYS = ("a", "b", "c")

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


async def test_load_waits_for_data_again_that_a_reset_dropped_before_it_returned(
    autojump_clock: MockClock,
) -> None:
    log = Log(plans=[ReadPlan(0, 1.0)])
    whole = WholeTable(log)
    loaded: list[bool] = []

    async def load() -> None:
        await whole.follower.load()
        loaded.append(whole.follower.is_loaded)

    async def load_and_reset() -> None:
        # Woken in the same step as the other caller, and runs before it.
        await whole.follower.load()
        log.publish(0, reset=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_and_reset)
        await wait_all_tasks_blocked()
        nursery.start_soon(load)

    assert loaded == [True]


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


@pytest.mark.parametrize("all_keys", [False, True])
async def test_a_value_that_is_invalidated_during_the_read_of_another_is_read_again(
    autojump_clock: MockClock, all_keys: bool
) -> None:
    log = Log(plans=[ReadPlan(0, 5.0), ReadPlan(0, 1.0)])
    cached = CachedKeys(log)
    for key in ("a", "b"):
        log.commit(key)
    log.publish(2)
    values: dict[str, Value] = {}

    async def get(*keys: str) -> None:
        values.update(await cached.follower.get_many(keys))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "b")
        await wait_all_tasks_blocked()
        nursery.start_soon(get, "a", "b")  # reads a in 1 second, then waits for the read of b
        await trio.sleep(3)
        log.commit("a")
        if all_keys:
            cached.follower.invalidate_all()
        else:
            cached.follower.invalidate("a")

    assert values["a"].numbers == (1, 3)


async def test_a_value_that_is_dropped_during_the_read_of_another_is_read_again(
    autojump_clock: MockClock,
) -> None:
    log = Log()
    keys = CachedKeys(log, max_entries=1)
    await keys.follower.get("a")

    found = await keys.follower.get_many(("a", "b"))

    assert set(found) == {"a", "b"}
    assert log.reads == [["a"], ["b"], ["a"]]


async def test_a_value_that_is_invalidated_during_a_later_read_of_the_call_is_read_again(
    autojump_clock: MockClock,
) -> None:
    log = Log(plans=[ReadPlan(0, 1.0), ReadPlan(0, 1.0)])
    cached = CachedKeys(log)
    log.commit("a")
    log.publish(1)
    values: dict[str, Value] = {}

    async def get() -> None:
        values.update(await cached.follower.get_many(("a", "b"), at_once=1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get)
        await trio.sleep(1.5)
        log.commit("a")
        cached.follower.invalidate("a")

    assert log.reads == [["a"], ["b"], ["a"]]
    assert values["a"].numbers == (1, 2)
