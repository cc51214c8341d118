"""The grace period of cancelled work."""

import pytest
import trio

from hs.lib.grace import with_grace


async def work_for(seconds: float, finished: list[str]) -> str:
    await trio.sleep(seconds)
    finished.append("finished")
    return "result"


async def test_result_of_work_is_returned() -> None:
    finished: list[str] = []

    assert await with_grace(1, lambda: work_for(0, finished)) == "result"


async def test_exception_of_work_is_raised() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await with_grace(1, fail)


async def test_cancelled_work_finishes_within_grace_period(autojump_clock: trio.abc.Clock) -> None:
    finished: list[str] = []
    with trio.move_on_after(1) as scope:
        await with_grace(10, lambda: work_for(5, finished))
        await trio.lowlevel.checkpoint()

    assert scope.cancelled_caught
    assert finished == ["finished"]


async def test_cancelled_work_is_stopped_after_grace_period(autojump_clock: trio.abc.Clock) -> None:
    finished: list[str] = []
    began = trio.current_time()
    with trio.move_on_after(1) as scope:
        await with_grace(2, lambda: work_for(50, finished))

    assert scope.cancelled_caught
    assert finished == []
    assert trio.current_time() - began == pytest.approx(3)
