"""One composed process: everything that is started, as data."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from hs.apis.web.auth import Authenticator, OriginAuthenticator
from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission, RateLimits
from hs.apis.web.route import Endpoint
from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty, Supervision
from hs.nursery.part import Runner
from hs.nursery.process_base import ProcessBase
from hs.repl.calls.client import SECRET_MISMATCH
from hs.settings.sections.workers import MAIN
from hs.storage.database import DatabaseError, Tx

_DATABASE_S = 2.0


@attrs.frozen(eq=False, kw_only=True)
class Process:
    """Everything that boot starts. `runners` start in their order and stop in reverse.

    `preparations` run once, before anything listens. Duties with a `plan_duty` are held under a
    lease, by one process at a time; the others run in every process that has them.
    """

    base: ProcessBase
    preparations: Sequence[Callable[[], Awaitable[None]]] = ()
    runners: Sequence[tuple[str, Runner]] = ()
    duties: Sequence[Duty] = ()
    endpoints: Sequence[Endpoint] = ()
    authenticator: Authenticator
    origins: OriginAuthenticator
    rates: RateLimits
    admission: Admission
    drain: Drain
    metrics: Metrics
    supervision: Supervision


@attrs.frozen(eq=False)
class ProcessReadiness:
    """Whether this process can serve: database and Redis reachable, not draining."""

    _base: ProcessBase
    _drain: Drain

    async def check(self) -> Mapping[str, str | None]:
        """Return, for each condition, None or the reason why it is not met; never raises."""
        return {
            "draining": "the process is about to end" if self._drain.is_draining else None,
            "database": await self._database(),
            "replication": self._replication(),
        }

    async def _database(self) -> str | None:
        try:
            with trio.fail_after(_DATABASE_S):
                await self._base.database.read(_ask)
        except (DatabaseError, trio.TooSlowError) as error:
            return f"the database does not answer: {error}"
        fault = self._base.database.load().fault
        return None if fault is None else f"writes are refused: {fault}"

    def _replication(self) -> str | None:
        if not self._base.is_connected():
            return "Redis cannot be reached; changes of other processes come late"
        cluster = self._base.cluster
        # A process that was admitted before stays ready: the secret of the main process changed.
        if cluster is not None and cluster.clients.never_admitted_by(MAIN):
            return f"the main process rejects our calls: {SECRET_MISMATCH}"
        return None


async def _ask(tx: Tx) -> Any:
    return await tx.fetchval("SELECT 1")
