"""Run the simulation of the processes of one server:

    python -m tests.worker_simulation 17              run one seed
    python -m tests.worker_simulation 17 --show       and print what happens
    python -m tests.worker_simulation 17 --twice      and check that it happens again
    python -m tests.worker_simulation 0-99            run many

A seed decides everything, so one that fails does so whenever it is run. What a run
consists of is in `scenario`, what must be true at its end in `invariants`.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator

from tests.simulation.determinism import Trace
from tests.support.sql.databases import new_inline
from tests.worker_simulation.scenario import Outcome, run_seed

HASH_SEED = "0"


def main() -> int:
    """Run seeds; return 1 if one failed."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "tests.worker_simulation", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="python -m tests.worker_simulation")
    parser.add_argument("seeds", help="a number, or two with a hyphen between them")
    parser.add_argument("--show", action="store_true", help="print what happens")
    parser.add_argument("--twice", action="store_true", help="run each seed twice and compare")
    options = parser.parse_args()
    new_inline().close()  # the first one migrates the others' template, which would use up chance
    gc.freeze()
    failed = []
    began = time.perf_counter()
    seeds = list(_numbers(options.seeds))
    for seed in seeds:
        outcome = run_seed(seed, Trace(_print if options.show else None))
        if options.twice:
            again = run_seed(seed)
            if again.trace.digest != outcome.trace.digest:
                outcome.problems.append(f"the second run was another: {_first(outcome, again)}")
        _report(outcome)
        if outcome.problems:
            failed.append(seed)
    seconds = time.perf_counter() - began
    _print(f"{len(seeds)} seeds in {seconds:.1f} s, {len(failed)} failed: {failed}")
    return 1 if failed else 0


def _numbers(text: str) -> Iterator[int]:
    first, _, last = text.partition("-")
    yield from range(int(first), int(last or first) + 1)


def _report(outcome: Outcome) -> None:
    state = "FAILED" if outcome.problems else "ok"
    _print(
        f"seed {outcome.seed}: {state}, trace {outcome.trace.digest} with"
        f" {len(outcome.trace.lines)} lines, {outcome.requests} requests, {outcome.events} events"
        f" in {outcome.virtual_s:.0f} s"
    )
    for problem in outcome.problems:
        _print(f"  {problem}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _first(outcome: Outcome, again: Outcome) -> str:
    for number, lines in enumerate(zip(outcome.trace.lines, again.trace.lines, strict=False)):
        if lines[0] != lines[1]:
            return f"line {number}: {lines[0]!r}, then {lines[1]!r}"
    return "one is longer"


if __name__ == "__main__":
    sys.exit(main())
