"""The plan of one process: its listeners, streams and duties, computed from the settings.

`hs plan` prints it. No code outside this folder asks which kind of process it runs in.
"""

import attrs

from hs.core.streams import CATALOGUE
from hs.settings.sections.listeners import Listener
from hs.settings.settings import Settings

# Duties: the background work of a process. `hs plan`, logs, metrics and leases show these names.
BACKGROUND = "background tasks"
USER_DIRECTORY = "user directory"
APPSERVICES = "application services"
PUSHERS = "pushers"
FEDERATION = "federation sender"
MEDIA_JOBS = "media jobs"

INTERNAL_RESOURCES = frozenset(("replication", "metrics", "health"))
"""What listeners serve that neither clients nor other servers use."""


@attrs.frozen(kw_only=True)
class Plan:
    """The listeners, streams and duties of one process.

    With `shared` there are other processes, so it needs Redis and replication over HTTP. A process
    that `migrates` brings the schema up to date at its start.
    """

    instance: str
    app: str
    listeners: tuple[Listener, ...]
    writes: tuple[str, ...]
    duties: tuple[str, ...]
    shared: bool
    migrates: bool

    @property
    def answers_requests(self) -> bool:
        """Whether clients or other servers send requests to this process."""
        return any(not listener.names <= INTERNAL_RESOURCES for listener in self.listeners)

    @property
    def needs_sync(self) -> bool:
        """Whether clients may sync through this process, or it cleans up after those who did."""
        serves_clients = any("client" in listener.names for listener in self.listeners)
        return serves_clients or BACKGROUND in self.duties


def plan_of(settings: Settings) -> Plan:
    """Return the plan of the process with these settings."""
    workers = settings.workers
    name = workers.name
    holders_of = {
        BACKGROUND: workers.background_tasks,
        USER_DIRECTORY: workers.user_directory,
        APPSERVICES: workers.appservices,
        PUSHERS: workers.pushers,
        FEDERATION: workers.federation_senders,
        MEDIA_JOBS: workers.media_jobs,
    }
    # `stream_writers` accepts names of no stream, and some streams have the writers of another.
    named = {stream for stream in workers.writers if workers.writes(stream)}
    written = {stream.name for stream in CATALOGUE if stream.writer_setting in named}
    return Plan(
        instance=name,
        app=workers.app,
        listeners=settings.opened_listeners,
        writes=tuple(sorted(named | written)),
        duties=tuple(duty for duty, holders in holders_of.items() if name in holders),
        shared=settings.redis.enabled or bool(workers.others),
        migrates=workers.is_main,
    )


def tree_of(plan: Plan, settings: Settings) -> str:
    """Return a drawing of the nested nurseries that this plan opens, outermost first."""
    database = settings.database
    bus = "Redis and HTTP" if plan.shared else "within this process"
    streams = ", ".join(plan.writes) or "none"
    labels = [
        f"{plan.instance} ({plan.app})",
        "signals",
        "asyncio bridge",
        f"database: {database.engine} {database.label}"
        + (" (migrated here)" if plan.migrates else ""),
        f"replication: {bus}; writes {streams}",
        "duties: " + (", ".join(plan.duties) or "none"),
    ]
    lines = [f"{'  ' * depth}{'└ ' if depth else ''}{label}" for depth, label in enumerate(labels)]
    indent = "  " * len(labels)
    lines += [f"{indent}└ listener {describe_listener(listener)}" for listener in plan.listeners]
    if not plan.listeners:
        lines.append(f"{indent}└ no listeners")
    return "\n".join(lines)


def describe_listener(listener: Listener) -> str:
    """Return the addresses and resources of a listener."""
    return f"{_address_of(listener)}: {_resources_of(listener)}"


def _address_of(listener: Listener) -> str:
    if listener.path is not None:
        return str(listener.path)
    return ", ".join(
        f"[{address}]:{listener.port}" if ":" in address else f"{address}:{listener.port}"
        for address in listener.bind_addresses
    )


def _resources_of(listener: Listener) -> str:
    resources = ", ".join(sorted(listener.names)) or listener.type
    return f"{resources} (TLS)" if listener.tls else resources
