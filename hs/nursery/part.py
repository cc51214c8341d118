"""A part: what the wiring of one subject adds to a process."""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty


class Runner(Protocol):
    """A component that works as long as the process lives and must not fail.

    It reports its start; when cancelled, it finishes what it has accepted, then returns. An
    exception that it raises ends the process.
    """

    async def __call__(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Run until cancelled."""


@attrs.frozen(eq=False, kw_only=True)
class Part:
    """The endpoints, runners, duties and metrics of one subject.

    `endpoints` are objects with `@route` methods. `runners` start in their order, before the
    duties, and stop in reverse. Each of `metrics` registers what is read when metrics are scraped.
    """

    endpoints: Sequence[object] = ()
    runners: Sequence[tuple[str, Runner]] = ()
    duties: Sequence[Duty] = ()
    metrics: Sequence[Callable[[Metrics], None]] = ()
