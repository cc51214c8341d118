"""The limit that every test has."""

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.limits import limit, tell_where_all_are


def test_what_waits_for_ever_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"more than 0\.05 s"), limit(0.05):
        threading.Event().wait()


def test_what_ends_in_time_is_left_alone() -> None:
    with limit(0.01):
        pass
    assert not threading.Event().wait(0.02)


async def test_the_tasks_that_wait_are_told(
    capsys: pytest.CaptureFixture[str], nursery: trio.Nursery
) -> None:
    async def wait_for_nobody() -> None:
        await trio.Event().wait()

    nursery.start_soon(wait_for_nobody)
    await wait_all_tasks_blocked()

    tell_where_all_are()

    assert "wait_for_nobody: await trio.Event().wait()" in capsys.readouterr().err
