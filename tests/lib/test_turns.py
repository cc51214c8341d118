"""Turns: how many tasks of a key run in one pass of the scheduler, and in which order."""

import trio

from hs.lib.fairness.turns import MAX_KEYS, Turns

OF_PASS = 4


async def take(turns: Turns[str], key: str, done: list[str]) -> None:
    if not turns.take_nowait(key):
        await turns.wait(key)
    done.append(key)


async def test_one_pass_runs_a_few_tasks_of_each_key() -> None:
    turns, done = Turns[str](OF_PASS), list[str]()
    before: list[int] = []

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(take, turns, "a", done)
        while done.count("a") < 100:
            nursery.start_soon(take, turns, "b", done)
            before.append(done.count("a"))
            await trio.lowlevel.checkpoint()

    assert done.count("b") == len(before)
    in_pass = [after - count for count, after in zip(before, [*before[1:], 100], strict=True)]
    assert max(in_pass) <= 2 * OF_PASS
    assert len(before) <= 100 // OF_PASS + 5


async def test_waiting_tasks_continue_in_order_although_some_are_cancelled() -> None:
    turns, arrived, done = Turns[str](OF_PASS), list[int](), list[int]()
    scopes = [trio.CancelScope() for _ in range(90)]

    async def work(number: int) -> None:
        arrived.append(number)
        with scopes[number]:
            if not turns.take_nowait("a"):
                await turns.wait("a")
            done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(90):
            nursery.start_soon(work, number)
        await trio.lowlevel.checkpoint()
        for scope in scopes[::3]:
            scope.cancel()

    left = [number for number in arrived if number in done]
    # The tasks of one pass run in random order.
    assert all(abs(done.index(number) - left.index(number)) < 2 * OF_PASS for number in left)
    assert {number for number in range(90) if number % 3} <= set(done)
    assert len(done) < 75
    assert turns._queues == {}


async def test_task_alone_goes_on_and_keys_are_forgotten() -> None:
    turns, done = Turns[str](OF_PASS), list[str]()

    with trio.fail_after(5):
        for number in range(3 * MAX_KEYS):
            await take(turns, f"k{number}", done)
        for _ in range(100):
            await take(turns, "a", done)

    assert done.count("a") == 100
    assert len(turns._taken) <= MAX_KEYS
    assert turns._queues == {}
