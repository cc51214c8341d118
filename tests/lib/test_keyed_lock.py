"""The keyed lock: mutual exclusion per key, in order of arrival."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hs.lib.keyed_lock import KeyedLock


async def test_tasks_acquire_a_key_in_order_of_arrival(autojump_clock: MockClock) -> None:
    locks: KeyedLock[str] = KeyedLock()
    steps: list[str] = []

    async def work(name: str) -> None:
        async with locks.hold("key"):
            steps.append(f"{name} in")
            await trio.sleep(1)
            steps.append(f"{name} out")

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(work, name)
            await wait_all_tasks_blocked()

    assert steps == ["a in", "a out", "b in", "b out", "c in", "c out"]
    assert not locks.is_held("key")


async def test_different_keys_do_not_block_each_other() -> None:
    locks: KeyedLock[str] = KeyedLock()

    with trio.fail_after(60):
        async with locks.hold("one"), locks.hold("other"):
            held = locks.is_held("one"), locks.is_held("other"), locks.is_held("third")

    assert held == (True, True, False)


async def test_cancelled_waiter_does_not_block_the_next() -> None:
    locks: KeyedLock[int] = KeyedLock()
    entered = []

    async def enter(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with locks.hold(1):
                entered.append(name)

    async with trio.open_nursery() as nursery:
        async with locks.hold(1):
            scope = trio.CancelScope()
            nursery.start_soon(enter, "cancelled", scope)
            await wait_all_tasks_blocked()
            nursery.start_soon(enter, "next", trio.CancelScope())
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()

    assert entered == ["next"]
    assert not locks.is_held(1)


async def test_exception_releases_the_key() -> None:
    locks: KeyedLock[int] = KeyedLock()

    with pytest.raises(KeyError):
        async with locks.hold(1):
            raise KeyError

    assert not locks.is_held(1)
