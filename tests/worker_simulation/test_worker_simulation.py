"""The simulation of several processes, with a few seeds; with many if run with -m long.

Bugs are planted into the processes, to see that the simulation would find them. Which seed finds a
bug changes with the program, so that is tried with many, for those that no script finds.
"""

from typing import Final

import pytest

from tests.simulation.test_simulation import problems_of, run_seeds
from tests.worker_simulation.planted import COVERED, PLANTED
from tests.worker_simulation.scripts import CASES

CHUNK: Final = 50
LONG_SEEDS: Final = 2000
PLANTED_SEEDS: Final = "0-59"
MODULE: Final = "tests.worker_simulation"
SCRIPTED: Final = {bug for case in CASES for bug in case.bugs}


def test_twenty_seeds_keep_all_promises() -> None:
    run_seeds("0-19", module=MODULE)


def test_seed_replays_exactly() -> None:
    run_seeds("3", "--twice", module=MODULE)


@pytest.mark.long
@pytest.mark.parametrize("bug", sorted(PLANTED.keys() - COVERED - SCRIPTED))
def test_planted_bug_is_found(bug: str) -> None:
    assert "FAILED" in problems_of(PLANTED_SEEDS, "--first", "--planted", bug, module=MODULE)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, LONG_SEEDS, CHUNK))
def test_many_seeds_keep_all_promises(first: int) -> None:
    run_seeds(f"{first}-{first + CHUNK - 1}", module=MODULE)
