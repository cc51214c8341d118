"""Run the simulation of federation:

    python -m tests.simulation 17              run one seed
    python -m tests.simulation 17 --show       and print what happens
    python -m tests.simulation 17 --twice      and check that it happens again in the same way
    python -m tests.simulation 0-99            run many
    python -m tests.simulation 17 --steps 20   with fewer operations

A seed decides everything, so one that fails does so whenever it is run with the same steps. What a
run consists of is in `scenario`, what must be true at its end in `invariants`.
"""

import argparse
import sys

from tests.simulation.command import run_seeds
from tests.simulation.scenario import STEPS, run_seed

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--steps", type=int, default=STEPS, help="number of operations")
    sys.exit(run_seeds(parser, lambda seed, options, trace: run_seed(seed, options.steps, trace)))
