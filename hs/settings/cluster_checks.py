"""Checks of all processes of a server together: what no process sees from its own files.

Each process has the settings of the shared files and of its own one, as it would load them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import attrs

from hs.settings.checks import offers, overlap, sockets_of
from hs.settings.errors import Notice, Origin, Problem
from hs.settings.log_config import log_files
from hs.settings.sections.listeners import Listener
from hs.settings.sections.workers import MAIN, InstanceAddress, WorkerSettings
from hs.settings.settings import Settings

# What a process may have otherwise than others: the checks here compare what follows from these.
_COMPARED_KEYS = frozenset(
    (
        "instance_map",
        "notify_appservices",
        "send_federation",
        "start_pushers",
        "stream_writers",
        "update_user_directory",
    )
)
# Everything that must be equal, or processes do not understand each other.
_EQUAL_KEYS = frozenset(
    (
        "server_name",
        "signing_key",
        "signing_key_path",
        "worker_replication_secret",
        "worker_replication_secret_path",
    )
)


@attrs.frozen
class _Job:
    """Work that is assigned to processes: the key, what it is, and its holders by settings."""

    key: str
    subject: str
    holders: Callable[[WorkerSettings], tuple[str, ...]]
    may_be_nobodys: bool = False


_JOBS = (
    _Job("run_background_tasks_on", "periodic tasks", lambda workers: workers.background_tasks),
    _Job(
        "update_user_directory_from_worker",
        "the user directory",
        lambda workers: workers.user_directory,
    ),
    _Job(
        "notify_appservices_from_worker",
        "sending to application services",
        lambda workers: workers.appservices,
    ),
    _Job("pusher_instances", "sending notifications", lambda workers: workers.pushers),
    _Job(
        "federation_sender_instances",
        "sending to other servers",
        lambda workers: workers.federation_senders,
    ),
    _Job(
        "outbound_federation_restricted_to",
        "requests to other servers",
        lambda workers: workers.peer_processes,
        may_be_nobodys=True,
    ),
    _Job(
        "media_instance_running_background_jobs",
        "periodic tasks of media",
        lambda workers: workers.media_jobs,
    ),
)


@attrs.define
class ClusterFindings:
    """The problems and notices of all processes, each with the file and line of its key."""

    problems: list[Problem] = attrs.Factory(list)
    notices: list[Notice] = attrs.Factory(list)

    def refuse(self, settings: Settings, key: str, message: str, remedy: str) -> None:
        """Add a problem of a process."""
        origin = _origin_of(settings, key)
        problem = Problem(key=key, message=message, remedy=remedy, origin=origin)
        if problem not in self.problems:
            self.problems.append(problem)

    def warn(self, settings: Settings, key: str, message: str) -> None:
        """Add a warning about a process."""
        notice = Notice(key=key, message=message, origin=_origin_of(settings, key))
        if notice not in self.notices:
            self.notices.append(notice)


def check_cluster(main: Settings, workers: Sequence[Settings]) -> ClusterFindings:
    """Check the main process and all workers together."""
    findings = ClusterFindings()
    named = _check_names(workers, findings)
    processes = {MAIN: main, **named}
    for job in _JOBS:
        _check_job(job, processes, findings)
    for stream in main.workers.writers:
        job = _Job(
            f"stream_writers.{stream}",
            f"writing the stream {stream}",
            partial(_writers_of, stream),
        )
        _check_job(job, processes, findings)
    if named and not offers(main, "replication"):
        message = "no listener has the resource `replication`, so workers cannot reach main"
        remedy = "add a listener with `resources: [{names: [replication]}]`"
        findings.refuse(main, "listeners", message, remedy)
    _check_addresses(processes, findings)
    _check_calls(processes, findings)
    _check_sockets(processes, findings)
    _check_log_files(processes, findings)
    _check_equal(main, named, findings)
    return findings


def _writers_of(stream: str, workers: WorkerSettings) -> tuple[str, ...]:
    return workers.writers[stream]


def file_of(settings: Settings) -> Path:
    """Return the file of a process's own: the last one."""
    return settings.files[-1] if settings.files else settings.folder


def _origin_of(settings: Settings, key: str) -> Origin:
    return settings.origins.get(key.partition(".")[0], Origin(file=file_of(settings)))


def _check_names(workers: Sequence[Settings], findings: ClusterFindings) -> dict[str, Settings]:
    """Return the workers by name, without those that have none of their own."""
    named: dict[str, Settings] = {}
    own: list[Settings] = []
    for worker in workers:
        name = worker.workers.name
        if worker.workers.is_main:
            message = "missing, so this file would start a second main process"
            remedy = "add `worker_app: synapse.app.generic_worker`, or leave the file out"
            findings.refuse(worker, "worker_app", message, remedy)
        elif name == worker.workers.app:
            message = f"missing, so the process is called {name}, as others without a name"
            remedy = "add `worker_name: …`, different in each file"
            findings.refuse(worker, "worker_name", message, remedy)
        else:
            named.setdefault(name, worker)
            own.append(worker)
    check_names_differ(own, findings)
    return named


def check_names_differ(processes: Iterable[Settings], findings: ClusterFindings) -> None:
    """Look for two processes of one name."""
    files: dict[str, Path] = {}
    for settings in processes:
        name, path = settings.workers.name, file_of(settings)
        if files.setdefault(name, path) != path:
            message = f"{name!r} is also the name in {files[name]}"
            findings.refuse(settings, "worker_name", message, "give each process a name of its own")


def _check_job(job: _Job, processes: Mapping[str, Settings], findings: ClusterFindings) -> None:
    """Check that the holders of a job run, know of it, and are the same for all processes."""
    views = {name: job.holders(settings.workers) for name, settings in processes.items()}
    named = {name: holders for name, holders in views.items() if holders}
    if not named and not job.may_be_nobodys:
        findings.warn(processes[MAIN], job.key, f"nobody has the task of {job.subject}")
    first = next(iter(named), MAIN)
    for name, holders in named.items():
        for holder in holders:
            _check_holder(job, holder, processes, processes[name], findings)
        if holders != named[first]:
            theirs, others = ", ".join(holders), ", ".join(named[first])
            message = f"{name} takes {theirs} for {job.subject}, and {first} takes {others}"
            remedy = "write the key into the shared file only, with all names in one order"
            findings.refuse(processes[name], job.key, message, remedy)


def _check_holder(
    job: _Job,
    holder: str,
    processes: Mapping[str, Settings],
    settings: Settings,
    findings: ClusterFindings,
) -> None:
    if holder not in processes:
        message = f"names {holder} for {job.subject}, but no file is that of {holder}"
        remedy = f"add a file with `worker_name: {holder}`, or remove the name here"
    elif not job.holders(processes[holder].workers):
        message = f"names {holder} for {job.subject}, but {holder} does not do that itself"
        remedy = f"remove the key that denies it from {file_of(processes[holder])}"
    else:
        return
    findings.refuse(settings, job.key, message, remedy)


def _check_addresses(processes: Mapping[str, Settings], findings: ClusterFindings) -> None:
    """Compare `instance_map` with the replication listeners, and between processes."""
    first: dict[str, tuple[str, InstanceAddress]] = {}
    for name, settings in processes.items():
        for instance, address in settings.workers.instances.items():
            key = f"instance_map.{instance}"
            if "instance_map" not in settings.origins and instance == MAIN:
                key = "worker_replication_http_port"
            if instance not in processes:
                findings.warn(settings, key, f"no file is that of {instance}")
                continue
            seen = first.setdefault(instance, (name, address))
            if seen[1] != address and not _is_same(seen[1], address):
                other, theirs = seen
                message = (
                    f"{name} calls {instance} at {_text_of(address)}, {other} at {_text_of(theirs)}"
                )
                remedy = "write the address into the shared file only"
                findings.refuse(settings, key, message, remedy)
            elif (fault := _fault_of(address, processes[instance])) is not None:
                findings.refuse(
                    settings,
                    key,
                    f"{instance} is called at {_text_of(address)}, but {fault}",
                    "correct the address here, or the listener with the resource `replication` in "
                    f"{file_of(processes[instance])}",
                )


def _is_same(first: InstanceAddress, second: InstanceAddress) -> bool:
    """Return whether two addresses are one listener: other hosts may know it by another name."""
    return (first.port, first.path, first.tls) == (second.port, second.path, second.tls)


def _fault_of(address: InstanceAddress, called: Settings) -> str | None:
    """Return why a process does not listen at an address, or None if it may."""
    listeners = [
        listener for listener in called.opened_listeners if "replication" in listener.names
    ]
    if not listeners:
        return "it has no replication listener"
    if address.path is not None:
        paths = [listener.path for listener in listeners]
        return None if address.path in paths else "its replication listener has another path"
    fitting = [listener for listener in listeners if listener.port == address.port]
    if not fitting:
        labels = ", ".join(listener.label for listener in listeners)
        return f"its replication listener is {labels}"
    if all(listener.tls != address.tls for listener in fitting):
        return f"its listener has {'no TLS' if address.tls else 'TLS'}"
    if not any(_is_bound(address.host, listener.bind_addresses) for listener in fitting):
        bound = ", ".join(name for listener in fitting for name in listener.bind_addresses)
        return f"its listener is bound to {bound}"
    return None


def _is_bound(host: str, bound: Sequence[str]) -> bool:
    """Return whether a host may be one of the addresses that a listener is bound to."""
    try:
        asked = ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return True  # a name, which the system resolves
    for name in bound:
        try:
            address = ip_address("127.0.0.1" if name == "localhost" else name)
        except ValueError:
            return True
        if address.is_unspecified or address == asked:
            return True
    return host == "localhost" and "::1" in bound


def _check_calls(processes: Mapping[str, Settings], findings: ClusterFindings) -> None:
    """Look for workers that clients share with other processes and that these cannot call."""
    serving = [name for name, settings in processes.items() if offers(settings, "client")]
    main = processes[MAIN]
    absent = [name for name in serving if name != MAIN and name not in main.workers.instances]
    if absent and len(serving) > 1:
        message = (
            f"no entry for {', '.join(absent)}: not shown by hs topology, and clients that change "
            "process receive members again"
        )
        findings.warn(main, "instance_map", message)


def _check_sockets(processes: Mapping[str, Settings], findings: ClusterFindings) -> None:
    """Look for two processes of one host that open the same port or socket, or PID file."""
    pid_files: dict[Path, str] = {}
    earlier: list[Settings] = []
    for name, settings in processes.items():
        for listener in settings.opened_listeners:
            rival = _rival_of(listener, settings, earlier)
            if rival is not None:
                key = "listeners" if name == MAIN else "worker_listeners"
                message = f"{listener.label} is also opened by {rival.workers.name}"
                remedy = f"use another port here, or in {file_of(rival)}"
                findings.refuse(settings, key, message, remedy)
        earlier.append(settings)
        path = settings.server.pid_file
        if path is not None and pid_files.setdefault(path, name) != name:
            key = "pid_file" if name == MAIN else "worker_pid_file"
            findings.warn(settings, key, f"{path} is also the PID file of {pid_files[path]}")


def _check_log_files(processes: Mapping[str, Settings], findings: ClusterFindings) -> None:
    """Look for log files that several processes of one host write to."""
    writers: dict[Path, list[Settings]] = {}
    for settings in processes.values():
        for path in dict.fromkeys(log_files(settings.logging)):
            writers.setdefault(path, []).append(settings)
    for path, (first, *others) in writers.items():
        sharing = [other for other in others if _may_share_a_host(first, other)]
        if sharing:
            names = ", ".join(settings.workers.name for settings in (first, *sharing))
            message = f"{names} log to {path}; set worker_log_config to a file for each process"
            findings.warn(sharing[0], sharing[0].logging.key, message)


def _rival_of(
    listener: Listener, settings: Settings, others: Sequence[Settings]
) -> Settings | None:
    """Return another process that would open the same address."""
    for other in others:
        if _may_share_a_host(other, settings) and any(
            overlap(taken, wanted)
            for opened in other.opened_listeners
            for taken in sockets_of(opened)
            for wanted in sockets_of(listener)
        ):
            return other
    return None


def _may_share_a_host(first: Settings, second: Settings) -> bool:
    """Return whether two processes may run on one host: instance_map does not say otherwise."""
    hosts = [
        settings.workers.instances[settings.workers.name].host
        for settings in (first, second)
        if settings.workers.name in settings.workers.instances
    ]
    return len(hosts) < 2 or hosts[0] == hosts[1]


def _check_equal(
    main: Settings, workers: Mapping[str, Settings], findings: ClusterFindings
) -> None:
    """Compare what all processes must share."""
    compared = {*_COMPARED_KEYS, *(job.key for job in _JOBS)}
    for name, worker in workers.items():
        for key in sorted({*main.digests, *worker.digests} - compared):
            if main.digests.get(key) == worker.digests.get(key):
                continue
            if key in _EQUAL_KEYS:
                message = f"{name} has another value than main"
                findings.refuse(worker, key, message, "write it into the shared file only")
            else:
                findings.warn(worker, key, f"{name} has another value than main")
        if _redis_of(worker) != _redis_of(main):
            message = f"{name} uses another Redis than main, so they do not hear each other"
            findings.refuse(worker, "redis", message, "write it into the shared file only")
        if _database_of(worker) != _database_of(main):
            message = f"{name} uses another database than main"
            findings.refuse(worker, "database", message, "use the same database in all processes")


def _redis_of(settings: Settings) -> tuple[object, ...]:
    # Hosts may know one server by different names.
    redis = settings.redis
    return redis.enabled, redis.dbid


def _database_of(settings: Settings) -> tuple[object, ...]:
    database = settings.database
    args = database.args
    return database.engine, args.get("dbname", args.get("database"))


def _text_of(address: InstanceAddress) -> str:
    text = str(address.path) if address.path is not None else f"{address.host}:{address.port}"
    return f"{text} with TLS" if address.tls else text
