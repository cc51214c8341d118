"""Supervision: failing duties are restarted with backoff, finished ones are left alone."""

import itertools

import pytest
import trio
from trio.testing import MockClock

from hs.lib.tasks import Duty, every, keep_running


async def test_failing_duty_is_started_again_with_growing_pauses(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[float] = []

    async def fails_three_times() -> None:
        starts.append(trio.current_time())
        if len(starts) < 4:
            raise RuntimeError("no luck")

    await keep_running(Duty("unlucky", fails_three_times))

    gaps = [round(b - a, 3) for a, b in itertools.pairwise(starts)]
    assert gaps == [0.5, 1.0, 2.0]
    assert "duty unlucky failed" in caplog.text


async def test_what_passes_by_itself_is_told_in_one_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[Exception] = [
        ConnectionError("away"),
        ExceptionGroup("", [ExceptionGroup("", [ConnectionError("still away")])]),
        ExceptionGroup("", [ConnectionError("away"), ValueError("a mistake")]),
    ]

    async def fails() -> None:
        if faults:
            raise faults.pop(0)

    await keep_running(Duty("unlucky", fails), (ConnectionError,))

    assert [record.exc_info is not None for record in caplog.records] == [False, False, True]
    assert caplog.messages[0] == "duty unlucky: away, restarting it in 0.5 s"


async def test_who_waits_for_what_is_away_goes_on_soon_after_it_is_back(
    autojump_clock: MockClock,
) -> None:
    starts: list[float] = []

    async def wants_something() -> None:
        starts.append(trio.current_time())
        if len(starts) < 9:
            raise ConnectionError("away")

    await keep_running(Duty("patient", wants_something), (ConnectionError,))

    gaps = [round(b - a, 3) for a, b in itertools.pairwise(starts)]
    assert gaps == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


async def test_cancelled_duty_is_not_started_again(autojump_clock: MockClock) -> None:
    starts = 0

    async def forever() -> None:
        nonlocal starts
        starts += 1
        await trio.sleep_forever()

    with trio.move_on_after(5):
        await keep_running(Duty("patient", forever))

    assert starts == 1


async def test_periodic_work_happens_once_a_period(autojump_clock: MockClock) -> None:
    times: list[float] = []
    began = trio.current_time()

    async def note() -> None:
        times.append(round(trio.current_time() - began))

    with trio.move_on_after(35):
        await every(10, note)

    assert times == [10, 20, 30]
