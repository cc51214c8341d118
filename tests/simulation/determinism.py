"""Everything by chance or by time comes from a seed, so that the same seed gives the same run.

Trio shuffles the tasks that are ready with a generator of its own; `secrets`, `uuid` and `random`
get theirs from the seed too. Work in threads runs in the task that asks for it. Time is that of a
clock that jumps ahead when all tasks wait. The order of sets of strings depends on PYTHONHASHSEED,
which only the start of the interpreter can set.
"""

import gc
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import attrs
import trio
import trio._core._run as trio_run

from hs.lib import time_slice
from hs.lib.clock import FixedClock

START_MS = 1_700_000_000_000


@contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """Take all chance from a seed until the block ends; yield the generator of the scenario."""
    secret = random.Random(f"secrets {seed}")
    random.seed(f"random {seed}")
    scheduling = random.Random(f"trio {seed}")
    with (
        mock.patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        mock.patch.object(trio_run, "_r", scheduling),
        mock.patch.object(random, "_urandom", secret.randbytes),
        mock.patch.object(trio.to_thread, "run_sync", _run_here),
        mock.patch.object(time_slice, "MAX_S", float("inf")),
        _no_collections(),
    ):
        yield random.Random(f"scenario {seed}")


@contextmanager
def _no_collections() -> Iterator[None]:
    """Leave garbage until the end of a run, which is short: collecting it takes a tenth of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


async def _run_here(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return function(*args)


@attrs.define
class VirtualClock(FixedClock):
    """The clock of a server: it follows that of trio, and is set wrong by `skew_ms`."""

    skew_ms: int = attrs.field(default=0, kw_only=True)

    def now_ms(self) -> int:
        """Return the milliseconds since 1970-01-01 UTC."""
        return START_MS + self.skew_ms + self.steady_ms()

    def steady_ms(self) -> int:
        """Return the milliseconds since the start."""
        return int(trio.current_time() * 1000)


@attrs.define(eq=False)
class Trace:
    """What happened, in its order: `digest` is the same whenever a seed is run."""

    show: Callable[[str], None] | None = None
    lines: list[str] = attrs.Factory(list)
    _hash: Any = attrs.Factory(hashlib.sha256)

    def note(self, *words: object) -> None:
        """Add a line."""
        line = " ".join((f"{trio.current_time():.6f}", *map(str, words)))
        self.lines.append(line)
        self._hash.update(line.encode() + b"\n")
        if self.show is not None:
            self.show(line)

    @property
    def digest(self) -> str:
        """Hash of all lines."""
        return str(self._hash.hexdigest()[:16])
