"""The simulation of federation, with a few seeds; with many if run with -m long.

Each chunk of seeds runs in an interpreter of its own, whose hashes of strings are not random.
"""

import os
import subprocess
import sys
from typing import Final

import pytest

from tests.support.source_tree import ROOT

CHUNK: Final = 50
LONG_SEEDS: Final = 2000
TIMEOUT_S: Final = 3000


def problems_of(*arguments: str, module: str = "tests.simulation") -> str:
    """Run a simulation; return the problems of the seeds that failed, or ""."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if not run.returncode:
        return ""
    return "\n".join(line for line in run.stdout.splitlines() if ": ok, trace" not in line)


def run_seeds(*arguments: str, module: str = "tests.simulation") -> None:
    """Run a simulation; fail with the problems of the seeds that failed."""
    problems = problems_of(*arguments, module=module)
    if problems:
        pytest.fail(problems, pytrace=False)


def test_twenty_seeds_converge() -> None:
    run_seeds("0-19")


def test_seed_replays_exactly() -> None:
    run_seeds("3", "--twice")


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, LONG_SEEDS, CHUNK))
def test_many_seeds_converge(first: int) -> None:
    run_seeds(f"{first}-{first + CHUNK - 1}")
