"""Shares of keys: their limits, the order of waiting tasks, and what is forgotten."""

import pytest
import trio
import trio.testing

from hs.lib.fairness.shares import ShareExceeded, Shares


async def test_tasks_of_one_key_wait_in_order_and_other_keys_do_not_wait() -> None:
    shares = Shares[str](running=2, waiting=3)
    entered: list[int] = []
    places = [trio.Event() for _ in range(5)]

    async def work(number: int) -> None:
        async with shares.hold("a"):
            entered.append(number)
            await places[number].wait()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(work, number)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ShareExceeded):
            await shares.acquire("a")
        async with shares.hold("b"):
            assert (entered, len(shares)) == ([0, 1], 2)
        for place in places:
            place.set()
            await trio.testing.wait_all_tasks_blocked()

    assert entered == [0, 1, 2, 3, 4]
    assert len(shares) == 0


async def test_cancelled_task_leaves_its_place_to_the_next() -> None:
    shares = Shares[str](running=1, waiting=5)

    async with trio.open_nursery() as nursery:
        await shares.acquire("a")
        nursery.start_soon(shares.acquire, "a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    shares.release("a")

    assert len(shares) == 0
    async with shares.hold("a"):
        assert len(shares) == 1
