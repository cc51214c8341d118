"""Deadlines: keys are reported when theirs passes, and not if they were removed before."""

import trio

from hs.repl.calls.deadlines import Deadlines


async def test_keys_are_reported_at_their_deadlines(autojump_clock: trio.testing.MockClock) -> None:
    expired: list[tuple[str, float]] = []
    deadlines = Deadlines[str](lambda key: expired.append((key, trio.current_time() - began)))
    began = trio.current_time()

    deadlines.add("late", began + 30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.sleep(1)
        deadlines.add("early", began + 5)
        deadlines.add("over", began + 7)
        await trio.sleep(1)
        deadlines.remove("over")
        await trio.sleep(10)
        deadlines.add("after", began + 20)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()

    assert expired == [("early", 5), ("after", 20), ("late", 30)]


async def test_deadline_that_has_passed_is_reported_soon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    expired: list[str] = []
    deadlines = Deadlines[str](expired.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.testing.wait_all_tasks_blocked()

        deadlines.add("passed", trio.current_time() - 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert expired == ["passed"]
