"""The processes that announce themselves, and differences between their settings."""

import pytest
import trio
from trio.testing import MockClock

from hs.repl.announced import HEARD_S, AnnouncedProcesses


async def test_processes_are_known_while_they_are_heard(autojump_clock: MockClock) -> None:
    announced = AnnouncedProcesses("mine")
    announced.note("w1", "mine")
    announced.note("w2", "other")
    assert (announced.names, announced.differing) == (["w1", "w2"], ["w2"])

    await trio.sleep(HEARD_S - 1)
    announced.note("w1", "mine")
    await trio.sleep(2)

    assert (announced.names, announced.differing) == (["w1"], [])


async def test_a_difference_is_logged_when_it_begins_and_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    announced = AnnouncedProcesses("mine")
    for digest in ("other", "other", "mine", "mine", "other"):
        announced.note("w1", digest)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


async def test_a_flood_of_names_is_bounded() -> None:
    announced = AnnouncedProcesses("mine")
    for number in range(2000):
        announced.note(f"w{number}", "mine")

    assert len(announced.names) == 1000
