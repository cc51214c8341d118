"""Followers: properties that hold for all interleavings of reads, rows and failures."""

from collections.abc import Awaitable, Callable

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.repl.follower_log import CachedKeys, LoadFailed, Log, ReadPlan, WholeTable

KEYS = ("a", "b", "c")

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
