"""What one process does, as data: a pure function of the settings, printed by `hs plan`.

No code outside this folder asks which kind of process it is in.
"""

import attrs

from hs.settings.sections.listeners import Listener
from hs.settings.settings import Settings

# Duties: what a process does unasked. Names are shown by `hs plan`, in logs, metrics and leases.
BACKGROUND = "background tasks"
USER_DIRECTORY = "user directory"
APPSERVICES = "application services"
PUSHERS = "pushers"
FEDERATION = "federation sender"
MEDIA_JOBS = "media jobs"

# Streams that an instance writes although no setting names them.
_EVENTS_TOO = ("backfill",)


@attrs.frozen(kw_only=True)
class Plan:
    """The listeners, streams and duties of one process.

    `shared` tells that there are other processes, hence Redis and replication over HTTP.
    `migrates` is the process that brings the schema up to date at its start.
    """

    instance: str
    app: str
    listeners: tuple[Listener, ...]
    writes: tuple[str, ...]
    duties: tuple[str, ...]
    shared: bool
    migrates: bool


def plan_of(settings: Settings) -> Plan:
    """Decide what the process with these settings does."""
    workers = settings.workers
    name = workers.name
    held = {
        BACKGROUND: workers.background_tasks,
        USER_DIRECTORY: workers.user_directory,
        APPSERVICES: workers.appservices,
        PUSHERS: workers.pushers,
        FEDERATION: workers.federation_senders,
        MEDIA_JOBS: workers.media_jobs,
    }
    writes = [stream for stream in workers.writers if workers.writes(stream)]
    if "events" in writes:
        writes += _EVENTS_TOO
    return Plan(
        instance=name,
        app=workers.app,
        listeners=settings.listeners,
        writes=tuple(sorted(writes)),
        duties=tuple(duty for duty, holders in held.items() if name in holders),
        shared=settings.redis.enabled or bool(workers.others),
        migrates=workers.is_main,
    )


def tree_of(plan: Plan, settings: Settings) -> str:
    """Draw the nest of nurseries that this plan opens, outermost first."""
    database = settings.database
    bus = "Redis and HTTP" if plan.shared else "within this process"
    streams = ", ".join(plan.writes) or "none"
    nest = [
        f"{plan.instance} ({plan.app})",
        "signals",
        "asyncio bridge",
        f"database: {database.engine} {database.label}"
        + (" (migrated here)" if plan.migrates else ""),
        f"replication: {bus}; writes {streams}",
        "duties: " + (", ".join(plan.duties) or "none"),
    ]
    lines = [f"{'  ' * depth}{'└ ' if depth else ''}{label}" for depth, label in enumerate(nest)]
    indent = "  " * len(nest)
    lines += [f"{indent}└ listener {_address_of(one)}: {_offer_of(one)}" for one in plan.listeners]
    if not plan.listeners:
        lines.append(f"{indent}└ no listeners")
    return "\n".join(lines)


def _address_of(listener: Listener) -> str:
    if listener.path is not None:
        return str(listener.path)
    return ", ".join(
        f"[{address}]:{listener.port}" if ":" in address else f"{address}:{listener.port}"
        for address in listener.bind_addresses
    )


def _offer_of(listener: Listener) -> str:
    offer = ", ".join(sorted(listener.names)) or listener.type
    return f"{offer} (TLS)" if listener.tls else offer
