"""Stalls of the event loop are measured, and the log says what ran."""

import sys

import attrs
import pytest
import trio
import trio.testing

from hs.lib.event_loop_stalls import REPORT_EVERY_S, StallWatch


@attrs.define
class Clock:
    now: float = 0.0

    def read(self) -> float:
        return self.now


def run_for(watch: StallWatch, clock: Clock, seconds: float) -> None:
    watch.after_io_wait(0)
    clock.now += seconds
    watch.sample(0, sys._getframe())
    watch.before_io_wait(0)


def test_only_rounds_that_last_too_long_are_observed() -> None:
    clock, stalls = Clock(), list[float]()
    watch = StallWatch(stalls.append, clock.read)

    for seconds in (0.01, 0.25, 0.09, 0.5):
        run_for(watch, clock, seconds)

    assert stalls == [pytest.approx(0.25), pytest.approx(0.5)]


def test_waiting_for_io_is_no_stall() -> None:
    clock, stalls = Clock(), list[float]()
    watch = StallWatch(stalls.append, clock.read)

    run_for(watch, clock, 0.01)
    clock.now += 60
    watch.before_io_wait(0)

    assert stalls == []


def test_report_names_what_ran(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    watch = StallWatch(lambda seconds: None, clock.read)

    run_for(watch, clock, 0.3)

    assert "blocked for 300 ms" in caplog.text
    assert f"{__name__}:" in caplog.text
    assert "run_for" in caplog.text


def test_reports_are_rate_limited_and_count_all_stalls(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    watch = StallWatch(lambda seconds: None, clock.read)

    for _ in range(5):
        run_for(watch, clock, 0.2)
    clock.now += REPORT_EVERY_S
    run_for(watch, clock, 0.2)

    assert [record.getMessage().split("; ")[1] for record in caplog.records] == [
        "1 stalls since the last report",
        "5 stalls since the last report",
    ]


async def test_blocking_task_is_observed_and_named(caplog: pytest.LogCaptureFixture) -> None:
    stalls: list[float] = []
    watch = StallWatch(stalls.append)

    def block_the_loop() -> None:
        # Bounded by the samples that name it, whatever the load of the machine.
        while "block_the_loop" not in watch._calls:
            pass

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await trio.testing.wait_all_tasks_blocked()
            block_the_loop()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    assert stalls
    assert "block_the_loop" in caplog.text
