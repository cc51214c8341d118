"""The drain of a process."""

import trio
import trio.testing

from hs.apis.web.drain import Drain


async def test_all_tasks_that_wait_for_the_end_of_requests_are_woken() -> None:
    drain = Drain()
    drain.enter()
    drain.begin()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await drain.wait_idle()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        drain.leave()
        with trio.fail_after(5):
            while len(woken) < 3:  # noqa: ASYNC110 - no event: the tasks end by themselves
                await trio.sleep(0.01)


async def test_request_that_arrives_while_draining_is_waited_for() -> None:
    drain = Drain()
    drain.begin()
    drain.enter()

    with trio.move_on_after(0.05) as waiting:
        await drain.wait_idle()

    assert waiting.cancelled_caught
    drain.leave()
    await drain.wait_idle()
