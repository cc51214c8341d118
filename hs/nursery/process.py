"""One composed process: everything that is started, in the order of the nest, as data."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import trio

from hs.apis.web.auth import Authenticator
from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission, RateLimits
from hs.apis.web.route import Endpoint
from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty, Supervision
from hs.nursery.process_base import Foundation
from hs.storage.database import DatabaseError, Tx

_DATABASE_S = 2.0


class Runner(Protocol):
    """Something that works as long as the process lives and must not fail.

    It reports its start; cancelled, it finishes what it has taken on, then returns. What it
    raises ends the process.
    """

    async def __call__(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Run until cancelled."""


@attrs.frozen(eq=False, kw_only=True)
class Process:
    """What boot starts. `runners` start in their order and stop in reverse.

    `lone_duties` are held under a lease by one process at a time; `duties` run wherever they are.
    `preparations` run once, before anything listens.
    """

    ground: Foundation
    preparations: Sequence[Callable[[], Awaitable[None]]] = ()
    runners: Sequence[tuple[str, Runner]] = ()
    duties: Sequence[Duty] = ()
    lone_duties: Sequence[Duty] = ()
    endpoints: Sequence[Endpoint] = ()
    authenticator: Authenticator
    rates: RateLimits
    admission: Admission
    drain: Drain
    metrics: Metrics
    supervision: Supervision


@attrs.frozen(eq=False)
class ProcessReadiness:
    """Tells whether this process can serve: database, Redis, not draining."""

    _ground: Foundation
    _drain: Drain

    async def check(self) -> Mapping[str, str | None]:
        """Look at everything; never raises."""
        return {
            "draining": "the process is about to end" if self._drain.is_draining else None,
            "database": await self._database(),
            "replication": self._replication(),
        }

    async def _database(self) -> str | None:
        try:
            with trio.fail_after(_DATABASE_S):
                await self._ground.database.read(_ask)
        except (DatabaseError, trio.TooSlowError) as error:
            return f"the database does not answer: {error}"
        return None

    def _replication(self) -> str | None:
        if not self._ground.hears_others():
            return "Redis cannot be reached; changes of other processes come late"
        return None


async def _ask(tx: Tx) -> Any:
    return await tx.fetchval("SELECT 1")
