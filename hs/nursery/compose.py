"""The composition root: builds the base and all services, and collects what they add."""

import attrs

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.apis.web.origin_limits import OriginLimits
from hs.apis.web.route import collect
from hs.lib.aio import Bridge
from hs.lib.caching.lru_cache import collect_caches
from hs.lib.clock import Clock
from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty, Supervision
from hs.nursery import process_metrics
from hs.nursery.health.probes import Progress, build_health
from hs.nursery.plan import Plan
from hs.nursery.process import Process
from hs.nursery.process_base import build_process_base
from hs.nursery.process_report import LocalProcessReports
from hs.nursery.services import build_services
from hs.repl.process_reports import ProcessReports
from hs.repl.slots.moves import SlotMoves
from hs.services.accounts.sessions.server_blocking import with_server_blocking
from hs.settings.settings import Settings
from hs.storage.database import Database


def compose(
    settings: Settings, plan: Plan, clock: Clock, bridge: Bridge, database: Database
) -> Process:
    """Build a process. Nothing starts, waits or connects here. Raises: SettingsError."""
    base = build_process_base(settings, plan, clock, bridge, database)
    origins = OriginLimits(settings.rate_limits.rc_federation)
    drain, admission, metrics = Drain(), Admission(origins=origins), Metrics()
    progress = Progress()
    health = build_health(base, drain, progress)
    with collect_caches() as caches:
        services = build_services(base, admission, drain)
    sessions, parts = services.core.sessions, services.parts
    process = Process(
        base=base,
        runners=[runner for part in parts for runner in part.runners],
        duties=[
            duty
            for part in parts
            for duty in part.duties
            if duty.plan_duty is None or duty.plan_duty in plan.duties
        ]
        + [Duty("health", health.watch)],
        endpoints=collect(*(endpoint for part in parts for endpoint in part.endpoints)),
        authenticator=with_server_blocking(sessions.authenticator, settings.blocking),
        origins=services.core.federation.origins,
        rates=sessions.rates,
        admission=admission,
        drain=drain,
        metrics=metrics,
        supervision=Supervision(),
        health=health,
        progress=progress,
    )
    if base.cluster is not None:
        reports = LocalProcessReports(process, base.cluster)
        base.cluster.server.register(ProcessReports, reports)
        if base.slots is not None and base.slots.writers:
            base.cluster.server.register(SlotMoves, base.slots)
    if not settings.metrics.enable_metrics:
        stalls = process_metrics.log_stalls()
        return attrs.evolve(process, duties=[*process.duties, stalls])
    process_metrics.watch_process(metrics, process)
    owner = services.core.rooms.owner
    process_metrics.watch_caches(metrics, caches, None if owner is None else owner.hot)
    for part in parts:
        for watch in part.metrics:
            watch(metrics)
    lag, stalls = process_metrics.watch_lag(metrics), process_metrics.watch_stalls(metrics)
    return attrs.evolve(process, duties=[*process.duties, lag, stalls])
