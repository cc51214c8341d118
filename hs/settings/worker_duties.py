"""Resolve the settings about workers, in both dialects, and report contradictions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from hs.settings.errors import Problem
from hs.settings.fields import did_you_mean
from hs.settings.sections.workers import (
    APPSERVICE_APP,
    FEDERATION_SENDER_APP,
    MAIN,
    MAIN_APP,
    MEDIA_APP,
    PUSHER_APP,
    STREAMS,
    USER_DIRECTORY_APP,
    WORKER_APPS,
    InstanceAddress,
    WorkerKeys,
    WorkerSettings,
    process_name,
)

Refuse = Callable[[str, str, str], None]
Warn = Callable[[str, str], None]


@attrs.frozen(kw_only=True)
class _Duty:
    """A duty and the settings, new and old, that assign it to a process."""

    new_key: str
    old_key: str
    old_app: str


_USER_DIRECTORY = _Duty(
    new_key="update_user_directory_from_worker",
    old_key="update_user_directory",
    old_app=USER_DIRECTORY_APP,
)
_APPSERVICES = _Duty(
    new_key="notify_appservices_from_worker",
    old_key="notify_appservices",
    old_app=APPSERVICE_APP,
)
_PUSHERS = _Duty(new_key="pusher_instances", old_key="start_pushers", old_app=PUSHER_APP)
_SENDERS = _Duty(
    new_key="federation_sender_instances",
    old_key="send_federation",
    old_app=FEDERATION_SENDER_APP,
)


def resolve_workers(
    keys: WorkerKeys, given: frozenset[str], problems: list[Problem], warn: Warn
) -> WorkerSettings:
    """Resolve what this process is and which process has which duty.

    `given` are the keys that are present in the configuration. Contradictions are added to
    `problems`.
    """

    def refuse(key: str, message: str, remedy: str) -> None:
        problems.append(Problem(key=key, message=message, remedy=remedy))

    app, name = _identity(keys, refuse)

    def holders(duty: _Duty) -> tuple[str, ...]:
        return _holders(duty, keys, app, name, refuse)

    return WorkerSettings(
        name=name,
        app=app,
        secret=keys.worker_replication_secret,
        instances=_instances(keys, given, name, refuse, warn),
        writers=MappingProxyType(
            {stream: keys.stream_writers.get(stream, (MAIN,)) for stream in STREAMS}
        ),
        background_tasks=(process_name(keys.run_background_tasks_on or MAIN),),
        user_directory=holders(_USER_DIRECTORY),
        appservices=holders(_APPSERVICES),
        pushers=holders(_PUSHERS),
        federation_senders=holders(_SENDERS),
        peer_processes=tuple(map(process_name, keys.outbound_federation_restricted_to)),
        media_jobs=_media_jobs(keys, app, name),
        serves_media=app == MEDIA_APP or keys.enable_media_repo,
    )


def _identity(keys: WorkerKeys, refuse: Refuse) -> tuple[str, str]:
    app = keys.worker_app or MAIN_APP
    if app == MAIN_APP:
        _check_is_main(keys, refuse)
        return app, MAIN
    if app not in WORKER_APPS:
        refuse(
            "worker_app",
            f"there is no worker of type {app!r}" + did_you_mean(app, WORKER_APPS),
            f"use one of {', '.join(WORKER_APPS)}",
        )
    name = keys.worker_name or app
    if process_name(name) == MAIN:
        refuse("worker_name", f"{name!r} is the main process's name", "choose another name")
    return app, name


def _check_is_main(keys: WorkerKeys, refuse: Refuse) -> None:
    """Refuse a worker's file without `worker_app`, which would start a second main process."""
    remedy = "add `worker_app: synapse.app.generic_worker` to a worker's file, or remove the key"
    if keys.worker_name is not None and process_name(keys.worker_name) != MAIN:
        refuse("worker_name", "is set, but without worker_app this is the main process", remedy)
    elif keys.worker_listeners:
        refuse(
            "worker_listeners", "is set, but without worker_app this is the main process", remedy
        )


def _instances(
    keys: WorkerKeys, given: frozenset[str], name: str, refuse: Refuse, warn: Warn
) -> Mapping[str, InstanceAddress]:
    """Return the addresses of all processes, including the old form of main's."""
    addresses = {process_name(name): address for name, address in keys.instance_map.items()}
    old_form = {"worker_replication_host", "worker_replication_http_port"} & given
    if not old_form:
        return MappingProxyType(addresses)
    old = InstanceAddress(
        host=keys.worker_replication_host or "localhost",
        port=keys.worker_replication_http_port or 0,
        tls=keys.worker_replication_http_tls,
    )
    if not old.port:
        refuse(
            "worker_replication_http_port",
            "worker_replication_host is set without its port",
            "add worker_replication_http_port, or rather instance_map.main",
        )
    elif MAIN in addresses:
        if _canonical(addresses[MAIN]) != _canonical(old):
            refuse(
                "worker_replication_host",
                "contradicts instance_map.main",
                "remove the worker_replication_host and worker_replication_http_* keys",
            )
    elif name != MAIN:
        addresses[MAIN] = old
        warn("worker_replication_host", "old form, taken as instance_map.main")
    return MappingProxyType(addresses)


def _canonical(address: InstanceAddress) -> InstanceAddress:
    """Return an address with one name for this machine."""
    is_local = address.host == "localhost" or address.host.startswith("127.")
    return attrs.evolve(address, host="localhost") if is_local or address.host == "::1" else address


def _holders(duty: _Duty, keys: WorkerKeys, app: str, name: str, refuse: Refuse) -> tuple[str, ...]:
    written: str | tuple[str, ...] | None = getattr(keys, duty.new_key)
    names = (written,) if isinstance(written, str) and written else tuple(written or ())
    holders = tuple(process_name(holder) for holder in names)
    main_does_it: bool = getattr(keys, duty.old_key)
    if holders:
        if app == duty.old_app and name not in holders:
            refuse(
                duty.new_key,
                f"this worker is a {app} but is not named here",
                f"add {name} to {duty.new_key}, or use synapse.app.generic_worker",
            )
        return holders
    if main_does_it and app == duty.old_app:
        refuse(
            duty.old_key,
            f"both the main process and this {app} would do this",
            f"set {duty.old_key}: false in the shared file, or name the worker in {duty.new_key}",
        )
    if main_does_it:
        return (MAIN,)
    return (name,) if app == duty.old_app else ()


def _media_jobs(keys: WorkerKeys, app: str, name: str) -> tuple[str, ...]:
    if keys.media_instance_running_background_jobs:
        return (process_name(keys.media_instance_running_background_jobs),)
    if app == MEDIA_APP:
        return (name,)
    return (MAIN,) if keys.enable_media_repo else ()
