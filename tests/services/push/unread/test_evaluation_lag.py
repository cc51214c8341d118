"""Waiting for the evaluation: until it has caught up, and not for long."""

import trio
import trio.testing

from hs.core.positions import VectorPosition
from hs.services.push.unread.evaluation_lag import PATIENCE_S, WAIT_S, EvaluationLag


async def seconds_waited(lag: EvaluationLag) -> float:
    began_s = trio.current_time()
    await lag.wait()
    return trio.current_time() - began_s


async def test_nothing_is_waited_for_when_all_seen_events_are_evaluated(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lag = EvaluationLag()
    at_start = await seconds_waited(lag)
    lag.note_seen("w", 5)
    lag.advance("w", 5)
    caught_up = await seconds_waited(lag)
    lag.note_seen("w", 6)
    lag.note_evaluated(VectorPosition(7))

    assert (at_start, caught_up, await seconds_waited(lag)) == (0, 0, 0)


async def test_a_wait_ends_with_the_evaluation_of_what_was_seen(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lag = EvaluationLag()
    lag.note_seen("v", 3)
    lag.note_seen("w", 5)

    async def evaluate() -> None:
        for writer, upto in [("w", 4), ("v", 3), ("w", 5)]:
            await trio.sleep(0.1)
            lag.advance(writer, upto)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(evaluate)
        waited_s = await seconds_waited(lag)

    assert round(waited_s, 6) == 0.3


async def test_after_a_wait_in_vain_nobody_waits_for_some_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lag = EvaluationLag()
    lag.note_seen("w", 5)

    first, second = await seconds_waited(lag), await seconds_waited(lag)
    await trio.sleep(PATIENCE_S)
    third = await seconds_waited(lag)

    assert (first, second) == (WAIT_S, 0)
    assert round(third, 6) == WAIT_S


async def test_after_a_reset_what_was_evaluated_is_waited_for_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lag = EvaluationLag()
    lag.note_seen("w", 5)
    lag.advance("w", 5)

    lag.reset()

    assert await seconds_waited(lag) == WAIT_S
