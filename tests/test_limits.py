"""The time limit of every test."""

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.limits import limit, print_all_stacks


def test_hanging_test_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"more than 0\.05 s"), limit(0.05):
        threading.Event().wait()


def test_limit_is_removed_at_the_end() -> None:
    with limit(0.01):
        pass
    assert not threading.Event().wait(0.02)


async def test_stacks_of_waiting_tasks_are_printed(
    capsys: pytest.CaptureFixture[str], nursery: trio.Nursery
) -> None:
    async def wait_forever() -> None:
        await trio.Event().wait()

    nursery.start_soon(wait_forever)
    await wait_all_tasks_blocked()

    print_all_stacks()

    assert "wait_forever: await trio.Event().wait()" in capsys.readouterr().err
