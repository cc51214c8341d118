"""Run the simulation of the processes of one server:

    python -m tests.worker_simulation 17              run one seed
    python -m tests.worker_simulation 17 --show       and print what happens
    python -m tests.worker_simulation 17 --twice      and check that it happens again
    python -m tests.worker_simulation 0-99            run many

A seed decides everything, so one that fails does so whenever it is run. What a run
consists of is in `scenario`, what must be true at its end in `invariants`.
"""

import argparse
import sys

from tests.simulation.command import run_seeds
from tests.worker_simulation.scenario import run_seed

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.worker_simulation")
    sys.exit(run_seeds(parser, lambda seed, _, trace: run_seed(seed, trace)))
