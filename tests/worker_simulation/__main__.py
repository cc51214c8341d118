"""Run the simulation of the processes of one server:

    python -m tests.worker_simulation 17              run one seed
    python -m tests.worker_simulation 17 --show       and print what happens
    python -m tests.worker_simulation 17 --twice      and check that it happens again
    python -m tests.worker_simulation 0-99            run many
    python -m tests.worker_simulation 0-59 --planted no-fence --first

A seed decides everything, so one that fails does so whenever it is run. What a run
consists of is in `scenario`, what must be true at its end in `invariants`. The last command plants
a bug and runs seeds until one finds it; see `planted`.
"""

import argparse
import sys
from contextlib import ExitStack

from tests.simulation.command import run_seeds
from tests.simulation.determinism import Trace
from tests.worker_simulation.planted import PLANTED
from tests.worker_simulation.scenario import Outcome, run_seed


def _run(seed: int, options: argparse.Namespace, trace: Trace) -> Outcome:
    with ExitStack() as stack:
        if options.planted:
            stack.enter_context(PLANTED[options.planted]())
        return run_seed(seed, trace)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.worker_simulation")
    parser.add_argument("--planted", choices=sorted(PLANTED), help="a bug to run with")
    sys.exit(run_seeds(parser, _run))
