"""The asyncio bridge; both implementations fulfil the same contract."""

import asyncio
import contextlib
import gc
import math
import random
import threading
import weakref
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


async def wait_forever() -> None:
    await asyncio.Event().wait()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


async def test_run_returns_result_of_coroutine(bridge: Bridge) -> None:
    assert await bridge.run(double, 21) == 42


async def test_run_raises_exception_of_coroutine(bridge: Bridge) -> None:
    async def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        await bridge.run(fail)


class Failure(Exception):
    """An exception that can be observed."""


async def test_exception_is_freed_without_the_garbage_collector(bridge: Bridge) -> None:
    async def fail() -> None:
        raise Failure

    failures: list[weakref.ref[Failure]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            try:
                await bridge.run(fail)
            except Failure as error:
                failures.append(weakref.ref(error))
        with trio.fail_after(60):
            # The thread of the loop may hold the last one for a moment.
            while any(failure() is not None for failure in failures):  # noqa: ASYNC110 - a thread
                await trio.sleep(0.01)
    finally:
        gc.enable()


async def test_system_exit_reaches_caller_and_loop_keeps_running() -> None:
    async def exit_process() -> None:
        raise SystemExit(3)

    async with open_bridge("uvloop") as bridge:
        with pytest.raises(SystemExit):
            await bridge.run(exit_process)

        assert await bridge.run(double, 1) == 2


async def test_many_coroutines_run_concurrently(bridge: Bridge) -> None:
    results: dict[int, int] = {}

    async def call(number: int) -> None:
        results[number] = await bridge.run(double, number)

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(call, number)

    assert results == {number: number * 2 for number in range(300)}


async def test_cancelled_caller_waits_until_coroutine_has_ended(bridge: Bridge) -> None:
    steps = []

    async def clean_up_slowly() -> None:
        try:
            bridge.call_in_trio(scope.cancel)
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            steps.append("cleaned up")

    with trio.CancelScope() as scope:
        await bridge.run(clean_up_slowly)
    steps.append("returned")

    assert scope.cancelled_caught
    assert steps == ["cleaned up", "returned"]


async def test_coroutine_of_cancelled_caller_is_not_started(bridge: Bridge) -> None:
    started = []

    async def begin() -> None:
        started.append(1)

    with trio.CancelScope() as scope:
        scope.cancel()
        await bridge.run(begin)

    assert scope.cancelled_caught
    assert started == []


async def test_result_within_grace_period_is_returned(bridge: Bridge) -> None:
    async def take_a_moment() -> str:
        await asyncio.sleep(0.05)
        return "done"

    with trio.move_on_after(0.01):
        assert await bridge.run_with_grace(60.0, take_a_moment) == "done"


async def test_coroutine_is_cancelled_after_grace_period(bridge: Bridge) -> None:
    with trio.move_on_after(0.01) as scope:
        await bridge.run_with_grace(0.02, wait_forever)

    assert scope.cancelled_caught


async def test_coroutine_that_ignores_cancellation_is_cancelled_again(
    kind: BridgeKind, caplog: pytest.LogCaptureFixture
) -> None:
    async def ignore_first_cancellation() -> None:
        bridge.call_in_trio(scope.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await wait_forever()
        await wait_forever()

    async with open_bridge(kind, cancel_again_s=0.01) as bridge:
        with trio.CancelScope() as scope:
            await bridge.run(ignore_first_cancellation)

    assert scope.cancelled_caught
    assert "still runs after cancellation" in caplog.text


async def test_cancellation_on_the_loop_raises_cancelled_on_loop(bridge: Bridge) -> None:
    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(CancelledOnLoop):
        await bridge.run(cancel_myself)


async def test_many_cancellations_lose_no_call_and_no_resource(bridge: Bridge) -> None:
    rng = random.Random(STORM_SEED)
    semaphore = await bridge.run(_semaphore, 3)
    outcomes = []

    async def use() -> str:
        async with semaphore:
            await asyncio.sleep(rng.uniform(0, 0.004))
        return "used"

    async def call(limit_s: float) -> None:
        with trio.move_on_after(limit_s) as scope:
            outcomes.append(await bridge.run(use))
        if scope.cancelled_caught:
            outcomes.append("cancelled")

    async with trio.open_nursery() as nursery:
        for number in range(300):
            has_no_limit = number % 20 == 0
            nursery.start_soon(call, math.inf if has_no_limit else rng.uniform(0, 0.05))

    assert len(outcomes) == 300
    assert set(outcomes) == {"used", "cancelled"}
    assert await bridge.run(_count_free, semaphore) == 3


async def _semaphore(size: int) -> asyncio.Semaphore:
    return asyncio.Semaphore(size)


async def _count_free(semaphore: asyncio.Semaphore) -> int:
    taken = 0
    while not semaphore.locked():
        await semaphore.acquire()
        taken += 1
    return taken


async def test_calls_into_trio_keep_order_and_run_in_its_thread(bridge: Bridge) -> None:
    received: list[int] = []
    threads: set[int] = set()
    all_received = trio.Event()

    def receive(number: int) -> None:
        received.append(number)
        threads.add(threading.get_ident())
        if number == 99:
            all_received.set()

    async def send() -> None:
        for number in range(100):
            bridge.call_in_trio(receive, number)

    await bridge.run(send)
    await all_received.wait()

    assert received == list(range(100))
    assert threads == {threading.get_ident()}


async def test_failing_call_into_trio_is_logged_and_next_call_runs(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    called = trio.Event()

    def fail() -> None:
        raise ValueError("expected failure")

    async def send() -> None:
        bridge.call_in_trio(fail)
        bridge.call_in_trio(called.set)

    await bridge.run(send)
    await called.wait()

    assert "expected failure" in caplog.text


async def test_call_from_trio_runs_in_the_loop(bridge: Bridge) -> None:
    is_running: list[bool] = []

    def check_loop() -> None:
        is_running.append(asyncio.get_running_loop().is_running())

    bridge.call_in_loop(check_loop)
    await bridge.run(double, 1)

    assert is_running == [True]


async def test_closing_cancels_running_coroutines(kind: BridgeKind) -> None:
    ended = []

    async def call(bridge: Bridge) -> None:
        with pytest.raises(BridgeClosed):
            await bridge.run(wait_forever)
        ended.append("call")

    async def run_in_background() -> None:
        try:
            await wait_forever()
        finally:
            ended.append("background")

    async def start_background() -> asyncio.Task[None]:
        task = asyncio.create_task(run_in_background())
        await asyncio.sleep(0)
        return task

    async with trio.open_nursery() as nursery:
        async with open_bridge(kind) as bridge:
            nursery.start_soon(call, bridge)
            await trio.testing.wait_all_tasks_blocked()
            await bridge.run(start_background)

    assert sorted(ended) == ["background", "call"]
    with pytest.raises(BridgeClosed):
        await bridge.run(double, 1)


async def test_bridge_is_closed_after_cancellation(kind: BridgeKind) -> None:
    threads = threading.active_count()

    with trio.move_on_after(0.02) as scope:
        async with open_bridge(kind) as bridge:
            await bridge.run(wait_forever)

    assert scope.cancelled_caught
    # trio's worker thread, which joined the loop's thread, may still exist.
    assert threading.active_count() <= threads + 1
