"""The command line of the simulations: which seeds are run, and what is printed of them."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from tests.simulation.determinism import Trace
from tests.support.sql.databases import new_inline

HASH_SEED: Final = "0"


class Outcome(Protocol):
    """The result of a run; without problems, it is right."""

    @property
    def seed(self) -> int:
        """The seed of the run."""

    @property
    def trace(self) -> Trace:
        """What happened."""

    @property
    def problems(self) -> list[str]:
        """What is wrong."""

    @property
    def size(self) -> str:
        """How much happened, such as "120 events in 90 s"."""


Run = Callable[[int, argparse.Namespace, Trace], Outcome]


def run_seeds(parser: argparse.ArgumentParser, run: Run) -> int:
    """Run the seeds that the command line names; return 1 if one failed."""
    module = parser.prog.split()[-1]
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])
    parser.add_argument("seeds", help="a number, or two with a hyphen between them")
    parser.add_argument("--show", action="store_true", help="print what happens")
    parser.add_argument("--twice", action="store_true", help="run each seed twice and compare")
    parser.add_argument("--first", action="store_true", help="stop at the first that fails")
    options = parser.parse_args()
    new_inline().close()  # the first one migrates the others' template, which would use up chance
    gc.freeze()
    count, failed = 0, []
    began = time.perf_counter()
    for seed in _numbers(options.seeds):
        count += 1
        outcome = run(seed, options, Trace(_print if options.show else None))
        if options.twice:
            again = run(seed, options, Trace())
            if again.trace.digest != outcome.trace.digest:
                outcome.problems.append(f"the second run was another: {_first(outcome, again)}")
        _report(outcome)
        if outcome.problems:
            failed.append(seed)
            if options.first:
                break
    seconds = time.perf_counter() - began
    _print(f"{count} seeds in {seconds:.1f} s, {len(failed)} failed: {failed}")
    return 1 if failed else 0


def _numbers(text: str) -> Iterator[int]:
    first, _, last = text.partition("-")
    yield from range(int(first), int(last or first) + 1)


def _report(outcome: Outcome) -> None:
    state = "FAILED" if outcome.problems else "ok"
    trace = outcome.trace
    _print(
        f"seed {outcome.seed}: {state}, trace {trace.digest} with {len(trace.lines)} lines,"
        f" {outcome.size}"
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
