"""One composed process: everything that is started, as data."""

from collections.abc import Awaitable, Callable, Sequence

import attrs

from hs.apis.web.auth import Authenticator, OriginAuthenticator
from hs.apis.web.drain import Drain
from hs.apis.web.inherited_sockets import NO_SOCKETS, InheritedSockets
from hs.apis.web.limits import Admission, RateLimits
from hs.apis.web.route import Endpoint
from hs.lib.health import HealthChecks
from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty, Supervision
from hs.nursery.health.probes import Progress
from hs.nursery.part import Runner
from hs.nursery.process_base import ProcessBase


@attrs.frozen(eq=False, kw_only=True)
class Process:
    """Everything that boot starts. `runners` start in their order and stop in reverse.

    `preparations` run once, before anything listens. Duties with a `plan_duty` are held under a
    lease, by one process at a time; the others run in every process that has them. `sockets` were
    opened by the parent process.
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
    health: HealthChecks
    progress: Progress
    sockets: InheritedSockets = NO_SOCKETS
