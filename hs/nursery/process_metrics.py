"""The metrics of a process, read when Prometheus scrapes them.

docs/metrics.md has the list. Names that begin with `synapse_` mean what they mean to dashboards
made for Synapse.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import trio

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.core.ids import ServerName
from hs.core.streams import CATALOGUE
from hs.lib.caching.lru_cache import LruCache
from hs.lib.event_loop_stalls import StallWatch
from hs.lib.health import HealthChecks
from hs.lib.metrics import MetricFamily, Metrics, MetricSample, counter_family
from hs.lib.tasks import Duty, Supervision, measure_lag
from hs.nursery.process import Process
from hs.nursery.process_base import ProcessBase
from hs.repl.cluster import Cluster
from hs.repl.shared_writer import SharedTableWriter
from hs.repl.slots.keeper import SlotKeeper
from hs.repl.writers import TableWriter
from hs.services.federation_client.server_backoff import ServerBackoff
from hs.services.push.evaluation.evaluation_duty import EvaluationDuty
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.sync.notifier import Notifier

LAG_PERIOD_S: Final = 5.0
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
STALL_BUCKETS: Final = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Caches = Collection[LruCache[Any, Any]]


def watch_process(metrics: Metrics, process: Process) -> None:
    """Register what every process reports, whatever services it has."""
    base = process.base
    metrics.add_process_metrics()
    watch_server(metrics, process.admission, process.drain)
    watch_streams(metrics, base)
    watch_database(metrics, base)
    watch_duties(metrics, process.duties, process.supervision, base)
    watch_health(metrics, process.health)
    if base.cluster is not None:
        _watch_calls(metrics, base.cluster)
        _watch_replication(metrics, base.cluster)
    if base.slots is not None:
        _watch_slots(metrics, base.slots)


def watch_server(metrics: Metrics, admission: Admission, drain: Drain) -> None:
    """Report requests and the tasks that answer them."""
    requests = MetricFamily(
        "hs_http_requests_running", "Requests not answered yet, with long-polls"
    )
    running = MetricFamily("hs_work_running", "Requests computing, by class of work", ("work",))
    waiting = MetricFamily(
        "hs_work_waiting", "Requests waiting for their turn to compute", ("work",)
    )
    tasks = MetricFamily("hs_tasks", "Tasks under way")

    def read() -> Iterator[MetricSample]:
        yield requests, (), drain.in_flight
        for work, gate in admission.gates.items():
            yield running, (work.value,), gate.running
            yield waiting, (work.value,), gate.waiting
        yield tasks, (), trio.lowlevel.current_statistics().tasks_living

    metrics.add_source((requests, running, waiting, tasks), read)


def watch_health(metrics: Metrics, health: HealthChecks) -> None:
    """Report why the process is degraded or unready, as of the last looks."""
    causes = MetricFamily(
        "hs_health_causes",
        "1 for each cause for which the process is degraded or unready",
        ("code", "subject", "status"),
    )

    def read() -> Iterator[MetricSample]:
        for noticed in health.known().causes:
            cause = noticed.cause
            yield causes, (cause.code, cause.subject, cause.state.label), 1

    metrics.add_source((causes,), read)


def watch_lag(metrics: Metrics) -> Duty:
    """Return the duty that measures how late tasks run."""
    lag = metrics.histogram(
        "hs_event_loop_lag_seconds",
        "By how much a task ran later than it should, every five seconds",
        buckets=LAG_BUCKETS,
    )

    async def run() -> None:
        await measure_lag(LAG_PERIOD_S, lag.observe)

    return Duty("event loop lag", run)


def watch_stalls(metrics: Metrics) -> Duty:
    """Return the duty that measures and logs for how long tasks keep the event loop."""
    stalls = metrics.histogram(
        "hs_event_loop_stall_seconds",
        "How long tasks kept all others from running, if that was 0.1 s or longer",
        buckets=STALL_BUCKETS,
    )
    return Duty("event loop stalls", StallWatch(stalls.observe).run)


def log_stalls() -> Duty:
    """Return the duty of `watch_stalls` for a process without metrics."""
    return Duty("event loop stalls", StallWatch(_ignore).run)


def _ignore(seconds: float) -> None:
    pass


def watch_caches(metrics: Metrics, caches: Caches, hot_rooms: HotRooms | None) -> None:
    """Report every cache; caches of the same name are added up."""
    labels = ("name",)
    hits = MetricFamily("synapse_util_caches_cache_hits", "Found in a cache", labels)
    asked = MetricFamily("synapse_util_caches_cache", "Looked for in a cache", labels)
    size = MetricFamily(
        "synapse_util_caches_cache_size",
        "What a cache holds: bytes where its limit is in bytes, else entries",
        labels,
    )
    limit = MetricFamily("synapse_util_caches_cache_max_size", "The limit of that", labels)
    entries = MetricFamily("hs_cache_entries", "Entries of a cache", labels)
    evicted = MetricFamily(
        "synapse_util_caches_cache_evicted_size",
        "Entries that made room for others",
        ("name", "reason"),
    )

    def read() -> Iterator[MetricSample]:
        by_name: dict[str, list[LruCache[Any, Any]]] = {}
        for cache in caches:
            by_name.setdefault(cache.name, []).append(cache)
        for name, group in sorted(by_name.items()):
            hit_count = sum(cache.hits for cache in group)
            yield hits, (name,), hit_count
            yield asked, (name,), hit_count + sum(cache.misses for cache in group)
            yield size, (name,), sum(cache.weight for cache in group)
            yield limit, (name,), sum(cache.limit for cache in group)
            yield entries, (name,), sum(map(len, group))
            yield evicted, (name, "size"), sum(cache.evictions for cache in group)
        if hot_rooms is not None:
            yield size, ("hot_rooms",), hot_rooms.weight
            yield limit, ("hot_rooms",), hot_rooms.limit
            yield entries, ("hot_rooms",), len(hot_rooms)

    metrics.add_source((hits, asked, size, limit, entries, evicted), read)


def watch_streams(metrics: Metrics, base: ProcessBase) -> None:
    """Report how far this process follows each writer, and its own commits."""
    where = MetricFamily(
        "hs_stream_position",
        "How far this process has followed a writer of a stream, itself included",
        ("stream", "writer"),
    )
    commits = counter_family(
        "hs_stream_commits", "Transactions that wrote to a stream", ("stream",)
    )
    jobs = counter_family(
        "hs_stream_commit_jobs", "Changes that those transactions wrote", ("stream",)
    )
    rows = counter_family(
        "hs_stream_commit_rows", "Rows that those transactions added", ("stream",)
    )
    seconds = counter_family(
        "hs_stream_commit_seconds", "Time those transactions took", ("stream",)
    )
    waiting = MetricFamily("hs_stream_writes_waiting", "Changes waiting to be written", ("stream",))

    def read() -> Iterator[MetricSample]:
        for stream in CATALOGUE:
            for writer, position in list(base.feed.positions_of(stream).items()):
                yield where, (stream.name, writer), position
        writers: dict[str, TableWriter[Any] | SharedTableWriter[Any]] = {
            **base.table_writers,
            **base.shared_writers,
        }
        for name, table in writers.items():
            yield commits, (name,), table.commits
            yield jobs, (name,), table.jobs_committed
            yield rows, (name,), table.rows_committed
            yield seconds, (name,), table.commit_s
            yield waiting, (name,), table.waiting

    metrics.add_source((where, commits, jobs, rows, seconds, waiting), read)


def watch_database(metrics: Metrics, base: ProcessBase) -> None:
    """Report database connections and units of work."""
    connections = MetricFamily("hs_database_connections", "Open connections", ("state",))
    limit = MetricFamily("hs_database_max_connections", "How many this process may open")
    waiting = MetricFamily("hs_database_waiting", "Units of work waiting for a connection")
    units = counter_family("hs_database_units", "Units of work done", ("kind",))
    seconds = counter_family(
        "hs_database_unit_seconds", "Time from asking for them to their results", ("kind",)
    )

    def read() -> Iterator[MetricSample]:
        load = base.database.load()
        yield connections, ("used",), load.connections_used
        yield connections, ("idle",), load.connections - load.connections_used
        yield limit, (), load.max_connections
        yield waiting, (), load.waiting
        for kind, tally in load.units.items():
            yield units, (kind,), tally.count
            yield seconds, (kind,), tally.seconds

    metrics.add_source((connections, limit, waiting, units, seconds), read)


def watch_duties(
    metrics: Metrics, duties: Sequence[Duty], supervision: Supervision, base: ProcessBase
) -> None:
    """Report duties and leases."""
    running = MetricFamily(
        "hs_duty_running", "1 while a duty runs or waits for its lease, 0 in between", ("duty",)
    )
    restarts = counter_family(
        "hs_duty_restarts", "Duties that failed and were started again", ("duty",)
    )
    waiting = MetricFamily("hs_duty_waiting", "What waits in memory for a duty", ("duty",))
    leases = MetricFamily("hs_lease_held", "1 for each lease that this process holds", ("lease",))

    def read() -> Iterator[MetricSample]:
        for name, runs in supervision.running.items():
            yield running, (name,), runs
            yield restarts, (name,), supervision.restarts[name]
        for duty in duties:
            if duty.waiting is not None:
                yield waiting, (duty.name,), duty.waiting()
        for lease in sorted(base.leases.held):
            yield leases, (lease,), 1

    metrics.add_source((running, restarts, waiting, leases), read)


def watch_notifier(metrics: Metrics, notifier: Notifier) -> None:
    """Report long polls and the users who sync in this process."""
    listeners = MetricFamily(
        "synapse_notifier_listeners", "Long-polls waiting for something to happen"
    )
    users = MetricFamily("synapse_notifier_users", "Users who sync here, or did a moment ago")

    def read() -> Iterator[MetricSample]:
        yield listeners, (), notifier.waiting
        yield users, (), len(notifier)

    metrics.add_source((listeners, users), read)


def watch_committer(metrics: Metrics, committer: Committer) -> None:
    """Report the events that wait to be committed."""
    events = MetricFamily("hs_events_waiting", "Events waiting to be written")
    metrics.add_source((events,), lambda: iter([(events, (), committer.waiting_events)]))


def watch_push_evaluation(metrics: Metrics, duty: EvaluationDuty) -> None:
    """Report the events whose push rules are yet to be evaluated."""
    pushes = MetricFamily(
        "hs_push_evaluation_waiting",
        "Events waiting for their push rules, also those to be read from the tables",
    )
    metrics.add_source((pushes,), lambda: iter([(pushes, (), duty.waiting)]))


def _watch_calls(metrics: Metrics, cluster: Cluster) -> None:
    made = ("method", "instance")
    calls = counter_family("hs_rpc_calls", "Calls to other processes", made)
    failures = counter_family(
        "hs_rpc_failures", "Calls without an answer, or with that of a fault", made
    )
    seconds = counter_family("hs_rpc_seconds", "Time that calls took", made)
    answers = counter_family(
        "hs_rpc_answers", "Calls of other processes answered here", ("method",)
    )
    faults = counter_family("hs_rpc_faults", "Calls that failed here", ("method",))
    answer_seconds = counter_family(
        "hs_rpc_answer_seconds", "Time that answering took", ("method",)
    )
    running = MetricFamily("hs_rpc_running", "Calls being answered here")

    def read() -> Iterator[MetricSample]:
        for key, tally in cluster.clients.calls.items():
            if tally.count:
                yield calls, key, tally.count
                yield failures, key, tally.failures
                yield seconds, key, tally.seconds
        for method, tally in cluster.server.calls.items():
            if tally.count:
                yield answers, (method,), tally.count
                yield faults, (method,), tally.failures
                yield answer_seconds, (method,), tally.seconds
        yield running, (), cluster.server.running

    metrics.add_source((calls, failures, seconds, answers, faults, answer_seconds, running), read)


def _watch_replication(metrics: Metrics, cluster: Cluster) -> None:
    ways = ("direction",)
    connected = MetricFamily("hs_replication_connected", "1 while what others say arrives by Redis")
    connections = counter_family("hs_replication_connections", "Times that Redis was connected to")
    messages = counter_family("hs_replication_messages", "Messages over Redis", ways)
    dropped = counter_family(
        "hs_replication_dropped", "Messages lost here; what they told is read from the database"
    )
    waiting = MetricFamily("hs_replication_waiting", "Messages waiting in this process", ways)
    differing = MetricFamily(
        "hs_processes_with_other_settings", "Other processes whose shared settings differ"
    )
    lag = MetricFamily(
        "hs_stream_lag",
        "How far this process is behind what another one has told of its position",
        ("stream", "writer"),
    )
    repairs = counter_family(
        "hs_stream_repairs", "Gaps that were filled by asking for rows", ("stream", "writer")
    )

    def read() -> Iterator[MetricSample]:
        traffic = cluster.traffic
        yield connected, (), traffic.connected
        yield connections, (), traffic.connections
        yield messages, ("in",), traffic.received
        yield messages, ("out",), traffic.sent
        yield dropped, (), traffic.dropped
        yield waiting, ("in",), traffic.waiting_in
        yield waiting, ("out",), traffic.waiting_out
        yield differing, (), len(cluster.announced.differing)
        for followed in cluster.intake.followed():
            labels = (followed.stream, followed.writer)
            yield lag, labels, followed.lag
            yield repairs, labels, followed.repairs

    families = (connected, connections, messages, dropped, waiting, differing, lag, repairs)
    metrics.add_source(families, read)


def _watch_slots(metrics: Metrics, keeper: SlotKeeper) -> None:
    held = MetricFamily("hs_slots_held", "Slots of a stream that this process holds", ("stream",))

    def read() -> Iterator[MetricSample]:
        for stream in keeper.own_streams:
            yield held, (stream,), len(keeper.table.held(stream))

    metrics.add_source((held,), read)


def watch_backoff(
    metrics: Metrics, backoff: ServerBackoff, servers: Collection[ServerName]
) -> None:
    """Count the servers that fail; `servers` have a metric each."""
    count = MetricFamily("hs_federation_failing_servers", "Other servers that do not respond")
    each = MetricFamily(
        "hs_federation_server_failing_since_seconds",
        "When a server of `federation_metrics_domains` ceased to respond; 0 if it responds",
        ("server",),
    )

    def read() -> Iterator[MetricSample]:
        yield count, (), float(backoff.count())
        for server in servers:
            failing = backoff.failing(server)
            since_ms = 0 if failing is None else failing.failing_since_ms
            yield each, (server,), since_ms / 1000

    metrics.add_source([count, each], read)
