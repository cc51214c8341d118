"""Work that has time to finish when it is cancelled."""

import pytest
import trio

from hs.lib.grace import with_grace


async def take(seconds: float, done: list[str]) -> str:
    await trio.sleep(seconds)
    done.append("done")
    return "result"


async def test_work_gives_its_result() -> None:
    done: list[str] = []

    assert await with_grace(1, lambda: take(0, done)) == "result"


async def test_what_work_raises_is_raised() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await with_grace(1, fail)


async def test_cancelled_work_may_finish(autojump_clock: trio.abc.Clock) -> None:
    done: list[str] = []
    with trio.move_on_after(1) as scope:
        await with_grace(10, lambda: take(5, done))
        await trio.lowlevel.checkpoint()

    assert scope.cancelled_caught
    assert done == ["done"]


async def test_cancelled_work_ends_when_its_grace_is_over(autojump_clock: trio.abc.Clock) -> None:
    done: list[str] = []
    began = trio.current_time()
    with trio.move_on_after(1) as scope:
        await with_grace(2, lambda: take(50, done))

    assert scope.cancelled_caught
    assert done == []
    assert trio.current_time() - began == pytest.approx(3)
