"""Slots that are left while their holders wait for other servers."""

import trio
import trio.testing

from hs.lib.fairness.held_slots import HeldSlot, left_slot
from hs.lib.fairness.shares import Shares


class Slots:
    """A number of slots; None is the key of all."""

    def __init__(self, running: int) -> None:
        self.shares: Shares[None] = Shares(running=running, waiting=10)

    async def take(self) -> HeldSlot:
        await self.shares.acquire(None)
        return HeldSlot(lambda: self.shares.release(None), lambda: self.shares.acquire_nowait(None))

    @property
    def taken(self) -> int:
        return self.shares.taken(None)


async def test_slot_is_free_while_its_holder_waits() -> None:
    slots = Slots(1)
    held = await slots.take()

    with left_slot():
        assert slots.taken == 0
    assert slots.taken == 1

    held.end()
    assert slots.taken == 0


async def test_holder_whose_slot_was_taken_continues_without_one() -> None:
    slots = Slots(1)
    held = await slots.take()

    with left_slot():
        await slots.shares.acquire(None)
    assert slots.taken == 1

    held.end()
    assert slots.taken == 1


async def test_slot_is_taken_again_after_the_last_of_several_waits() -> None:
    slots = Slots(1)
    held = await slots.take()
    first, second = trio.Event(), trio.Event()

    async def wait(event: trio.Event) -> None:
        with left_slot():
            await event.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, first)
        nursery.start_soon(wait, second)
        await trio.testing.wait_all_tasks_blocked()
        first.set()
        await trio.testing.wait_all_tasks_blocked()
        assert slots.taken == 0
        second.set()
    assert slots.taken == 1

    held.end()
    assert slots.taken == 0


async def test_task_that_outlives_its_slot_leaves_none() -> None:
    slots = Slots(1)
    may_end = trio.Event()

    async def outlive() -> None:
        await may_end.wait()
        with left_slot():
            pass

    async with trio.open_nursery() as nursery:
        held = await slots.take()
        nursery.start_soon(outlive)
        await trio.testing.wait_all_tasks_blocked()
        held.end()
        await slots.shares.acquire(None)
        may_end.set()

    assert slots.taken == 1


async def test_without_a_slot_nothing_is_left() -> None:
    with left_slot():
        await trio.lowlevel.checkpoint()
