"""Both bridges to asyncio keep the same contract."""

import asyncio
import contextlib
import math
import random
import threading
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from hs.lib.aio import Bridge, BridgeClosed, BridgeKind, CancelledOnLoop, open_bridge

STORM_SEED = 20_240_607


@pytest.fixture(params=["uvloop", "trio-asyncio"])
def kind(request: pytest.FixtureRequest) -> BridgeKind:
    chosen: BridgeKind = request.param
    return chosen


@pytest.fixture
async def bridge(kind: BridgeKind) -> AsyncIterator[Bridge]:
    async with open_bridge(kind) as opened:
        yield opened


async def forever() -> None:
    await asyncio.Event().wait()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


async def test_a_coroutine_runs_on_the_loop_and_its_result_comes_back(bridge: Bridge) -> None:
    assert await bridge.run(double, 21) == 42


async def test_an_exception_comes_back(bridge: Bridge) -> None:
    async def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        await bridge.run(fail)


async def test_an_exit_request_comes_back_and_the_thread_keeps_running() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async with open_bridge("uvloop") as bridge:
        with pytest.raises(SystemExit):
            await bridge.run(leave)

        assert await bridge.run(double, 1) == 2


async def test_many_run_at_once(bridge: Bridge) -> None:
    answers: dict[int, int] = {}

    async def ask(number: int) -> None:
        answers[number] = await bridge.run(double, number)

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(ask, number)

    assert answers == {number: number * 2 for number in range(300)}


async def test_a_cancelled_caller_leaves_once_the_coroutine_has_ended(bridge: Bridge) -> None:
    steps = []

    async def clean_up_slowly() -> None:
        try:
            bridge.tell_trio(scope.cancel)
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            steps.append("cleaned up")

    with trio.CancelScope() as scope:
        await bridge.run(clean_up_slowly)
    steps.append("left")

    assert scope.cancelled_caught
    assert steps == ["cleaned up", "left"]


async def test_a_cancelled_caller_before_the_start_starts_nothing(bridge: Bridge) -> None:
    started = []

    async def begin() -> None:
        started.append(1)

    with trio.CancelScope() as scope:
        scope.cancel()
        await bridge.run(begin)

    assert scope.cancelled_caught
    assert started == []


async def test_a_result_that_comes_within_the_grace_is_given(bridge: Bridge) -> None:
    async def take_a_moment() -> str:
        await asyncio.sleep(0.05)
        return "done"

    with trio.move_on_after(0.01):
        assert await bridge.run_patiently(60.0, take_a_moment) == "done"


async def test_after_the_grace_the_coroutine_is_cancelled(bridge: Bridge) -> None:
    with trio.move_on_after(0.01) as scope:
        await bridge.run_patiently(0.02, forever)

    assert scope.cancelled_caught


async def test_a_coroutine_that_goes_on_although_cancelled_is_cancelled_again(
    kind: BridgeKind, caplog: pytest.LogCaptureFixture
) -> None:
    async def go_on_regardless() -> None:
        bridge.tell_trio(scope.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await forever()

    async with open_bridge(kind, cancel_again_s=0.01) as bridge:
        with trio.CancelScope() as scope:
            await bridge.run(go_on_regardless)

    assert scope.cancelled_caught
    assert "goes on although cancelled" in caplog.text


async def test_a_cancellation_on_the_loop_is_not_taken_for_trios(bridge: Bridge) -> None:
    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(CancelledOnLoop):
        await bridge.run(cancel_myself)


async def test_a_storm_of_cancellations_loses_nothing(bridge: Bridge) -> None:
    chance = random.Random(STORM_SEED)
    free = await bridge.run(_semaphore, 3)
    ends = []

    async def use() -> str:
        async with free:
            await asyncio.sleep(chance.uniform(0, 0.004))
        return "used"

    async def ask(limit_s: float) -> None:
        with trio.move_on_after(limit_s) as scope:
            ends.append(await bridge.run(use))
        if scope.cancelled_caught:
            ends.append("cancelled")

    async with trio.open_nursery() as nursery:
        for number in range(300):
            patient = number % 20 == 0
            nursery.start_soon(ask, math.inf if patient else chance.uniform(0, 0.05))

    assert len(ends) == 300
    assert set(ends) == {"used", "cancelled"}
    assert await bridge.run(_count_free, free) == 3


async def _semaphore(size: int) -> asyncio.Semaphore:
    return asyncio.Semaphore(size)


async def _count_free(free: asyncio.Semaphore) -> int:
    taken = 0
    while not free.locked():
        await free.acquire()
        taken += 1
    return taken


async def test_the_loop_tells_trio_in_order_and_in_its_thread(bridge: Bridge) -> None:
    heard: list[int] = []
    threads: set[int] = set()
    all_heard = trio.Event()

    def hear(number: int) -> None:
        heard.append(number)
        threads.add(threading.get_ident())
        if number == 99:
            all_heard.set()

    async def tell() -> None:
        for number in range(100):
            bridge.tell_trio(hear, number)

    await bridge.run(tell)
    await all_heard.wait()

    assert heard == list(range(100))
    assert threads == {threading.get_ident()}


async def test_a_failing_call_to_trio_is_logged_and_the_next_one_comes(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    heard = trio.Event()

    def fail() -> None:
        raise ValueError("of no consequence")

    async def tell() -> None:
        bridge.tell_trio(fail)
        bridge.tell_trio(heard.set)

    await bridge.run(tell)
    await heard.wait()

    assert "of no consequence" in caplog.text


async def test_trio_tells_the_loop(bridge: Bridge) -> None:
    seen: list[bool] = []

    def look() -> None:
        seen.append(asyncio.get_running_loop().is_running())

    bridge.tell_loop(look)
    await bridge.run(double, 1)

    assert seen == [True]


async def test_closing_ends_what_still_runs(kind: BridgeKind) -> None:
    ended = []

    async def ask(bridge: Bridge) -> None:
        with pytest.raises(BridgeClosed):
            await bridge.run(forever)
        ended.append("asked")

    async def in_the_background() -> None:
        try:
            await forever()
        finally:
            ended.append("background")

    async def start_background() -> asyncio.Task[None]:
        task = asyncio.create_task(in_the_background())
        await asyncio.sleep(0)
        return task

    async with trio.open_nursery() as nursery:
        async with open_bridge(kind) as bridge:
            nursery.start_soon(ask, bridge)
            await trio.testing.wait_all_tasks_blocked()
            await bridge.run(start_background)

    assert sorted(ended) == ["asked", "background"]
    with pytest.raises(BridgeClosed):
        await bridge.run(double, 1)


async def test_leaving_by_cancellation_closes_too(kind: BridgeKind) -> None:
    threads = threading.active_count()

    with trio.move_on_after(0.02) as scope:
        async with open_bridge(kind) as bridge:
            await bridge.run(forever)

    assert scope.cancelled_caught
    # trio's own worker thread, which joined the loop's, may linger.
    assert threading.active_count() <= threads + 1
