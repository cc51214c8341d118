"""The simulation of several processes, with a few seeds; with many if run with -m long."""

from typing import Final

import pytest

from tests.simulation.test_simulation import run_seeds

CHUNK: Final = 50
LONG_SEEDS: Final = 2000
MODULE: Final = "tests.worker_simulation"


def test_twenty_seeds_keep_all_promises() -> None:
    run_seeds("0-19", module=MODULE)


def test_seed_replays_exactly() -> None:
    run_seeds("3", "--twice", module=MODULE)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, LONG_SEEDS, CHUNK))
def test_many_seeds_keep_all_promises(first: int) -> None:
    run_seeds(f"{first}-{first + CHUNK - 1}", module=MODULE)
