"""A run that does not end is reported, instead of running for ever."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.worker_simulation.bounds import LONGEST_S, Bounds
from tests.worker_simulation.scheduling import Freezer


async def wake_each_other() -> None:
    while True:
        await trio.lowlevel.checkpoint()


async def wait_without_deadline() -> None:
    await trio.sleep_forever()


async def wait_too_long() -> None:
    await trio.sleep(LONGEST_S + 1)


@pytest.mark.parametrize(
    ("work", "problem"),
    [
        (wake_each_other, "time stands still at 0.000 s"),
        (wait_without_deadline, "time stands still at 0.000 s"),
        (wait_too_long, "the run did not end within 1500 s"),
    ],
)
def test_run_that_does_not_end_is_reported_with_what_was_running(
    work: Callable[[], Awaitable[None]], problem: str
) -> None:
    problems: list[str] = []
    bounds = Bounds(Freezer(), problems)

    trio.run(
        bounds.run,
        work,
        clock=trio.testing.MockClock(autojump_threshold=0),
        instruments=[bounds],
    )

    assert [each.splitlines()[0] for each in problems] == [problem]
    assert work.__name__ in problems[0]
