"""The health checks of a process, put together from its settings."""

from collections.abc import Iterator

import attrs

from hs.apis.web.drain import Drain
from hs.core.stream_def import StreamWriters
from hs.lib.health import Cause, HealthChecks, HealthState, Probe
from hs.nursery.health.database_probe import DatabaseProbe
from hs.nursery.health.disk_probe import FolderProbe
from hs.nursery.health.process_probes import ProcessProbe, RedisProbe, lag_causes, redis_causes
from hs.nursery.process_base import ProcessBase
from hs.repl.cluster import Cluster
from hs.repl.process_reports import ProcessReports
from hs.settings.sections.workers import MAIN
from hs.storage.migrate import bundled_migrations

DRAINING = "draining"
CHECKS = (DRAINING, "database", "schema", "clock", "disk", "replication")
"""The groups of causes, as `/health/ready` lists them."""


@attrs.define(eq=False)
class Progress:
    """How far a process is: `is_serving` once its listeners are open."""

    is_serving: bool = False


def build_health(base: ProcessBase, drain: Drain, progress: Progress) -> HealthChecks:
    """Build the health checks of a process."""
    cluster = base.cluster

    database = DatabaseProbe(base.database, bundled_migrations(), base.clock.now_ms)

    def instant() -> Iterator[Cause]:
        if drain.is_draining:
            yield _own_cause("draining", "the process is about to end")
        elif not progress.is_serving:
            yield _own_cause("starting", "the process is starting")
        yield from database.known_causes()
        if cluster is not None:
            yield from redis_causes(cluster.traffic.connected)
            yield from lag_causes(tuple(cluster.intake.followed()))

    probes = [database.probe, *_disk_probes(base)]
    if cluster is not None:
        probes.append(RedisProbe(cluster.find_bus_fault).probe)
        probes += _process_probes(base, cluster)
    return HealthChecks(probes, instant, base.clock.now_ms)


def _own_cause(code: str, message: str) -> Cause:
    return Cause(code=code, check=DRAINING, message=message, state=HealthState.UNREADY)


def _disk_probes(base: ProcessBase) -> Iterator[Probe]:
    settings = base.settings
    if settings.database.is_sqlite and settings.database.path.name != ":memory:":
        yield FolderProbe("database", settings.database.path.parent).probe
    if settings.workers.serves_media:
        yield FolderProbe("media_store_path", settings.media.media_store_path).probe


def _process_probes(base: ProcessBase, cluster: Cluster) -> Iterator[Probe]:
    """Yield a probe for main and each other process that alone writes something."""
    writers = {
        writer
        for stream, writer in base.ownership.expected()
        if stream.writers not in (StreamWriters.ANY, StreamWriters.EVERY)
    }
    for name in sorted((writers | {MAIN}) - {base.plan.instance}):
        yield ProcessProbe(
            name=name,
            ping=cluster.clients.proxy(ProcessReports, name).ping,
            is_essential=name == MAIN,
            never_admitted=cluster.clients.never_admitted_by,
        ).probe
