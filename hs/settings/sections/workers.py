"""Which processes there are and what each of them does: the settings as written and resolved."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.core.stream_def import StreamWriters
from hs.core.streams import CATALOGUE
from hs.settings.fields import block, did_you_mean, secret, setting
from hs.settings.kinds import (
    BOOLEAN,
    PATH,
    PORT,
    STRING,
    ConfigLocation,
    Kind,
    map_of,
    one_or_more,
    optional,
)
from hs.settings.sections.listeners import LISTENERS, Listener

MAIN = "main"
MAIN_APP = "synapse.app.homeserver"
GENERIC_APPS = (
    "synapse.app.generic_worker",
    "synapse.app.client_reader",
    "synapse.app.event_creator",
    "synapse.app.federation_reader",
    "synapse.app.frontend_proxy",
    "synapse.app.synchrotron",
)
PUSHER_APP = "synapse.app.pusher"
APPSERVICE_APP = "synapse.app.appservice"
FEDERATION_SENDER_APP = "synapse.app.federation_sender"
MEDIA_APP = "synapse.app.media_repository"
USER_DIRECTORY_APP = "synapse.app.user_dir"
WORKER_APPS = (
    *GENERIC_APPS,
    PUSHER_APP,
    APPSERVICE_APP,
    FEDERATION_SENDER_APP,
    MEDIA_APP,
    USER_DIRECTORY_APP,
)
_WRITERS = {
    **{stream.writer_setting: stream.writers for stream in CATALOGUE if stream.writer_setting},
    # Accepted without effect: there is no such stream.
    "quarantined_media_changes": StreamWriters.FIRST,
}
STREAMS = tuple(_WRITERS)
"""The names that `stream_writers` accepts."""
SHARDED_STREAMS = tuple(name for name in STREAMS if _WRITERS[name] is StreamWriters.SHARDED)
"""Those of which several processes may share out the keys."""


@attrs.frozen(kw_only=True)
class InstanceAddress:
    """The address of a process's replication listener: host and port, or a Unix socket."""

    host: str = setting(STRING, "", "Host name or address.")
    port: int = setting(PORT, 0, "TCP port.")
    tls: bool = setting(BOOLEAN, False, "Connect with TLS.")
    path: Path | None = setting(optional(PATH), None, "Unix socket, instead of host and port.")


_ADDRESS = block(InstanceAddress)


def _read_address(value: Any, at: ConfigLocation) -> InstanceAddress:
    address = _ADDRESS.read(value, at)
    if address.path is None and not (address.host and address.port):
        at.reject("an instance needs host and port, or path", "add the missing keys")
    return address


def _read_writers(value: Any, at: ConfigLocation) -> Mapping[str, tuple[str, ...]]:
    writers = _NAMES_BY_STREAM.read(value, at)
    for stream, names in writers.items():
        here = at.child(stream)
        if stream not in _WRITERS:
            here.reject(
                f"there is no stream {stream!r}" + did_you_mean(stream, STREAMS),
                f"use {', '.join(STREAMS)}",
            )
        if len(set(names)) != len(names):
            here.reject("a writer is named twice", "name each writer once")
        if len(names) > 1 and _WRITERS[stream] is StreamWriters.ONE:
            here.reject("this stream has exactly one writer", "name a single worker")
        if len(names) > 1 and _WRITERS[stream] is StreamWriters.FIRST:
            here.note(f"only the first writer, {names[0]}, is used")
    return MappingProxyType(
        {
            stream: tuple(
                process_name(name) for name in (names if stream in SHARDED_STREAMS else names[:1])
            )
            for stream, names in writers.items()
            if names
        }
    )


_NAMES_BY_STREAM = map_of(one_or_more(STRING))
WRITERS = Kind("map of stream to writers", _read_writers, _NAMES_BY_STREAM.schema)
NAMES = one_or_more(STRING)


def process_name(name: str) -> str:
    """Return `main` for either name of the main process, and a worker's name unchanged."""
    return MAIN if name in ("main", "master") else name


@attrs.frozen(kw_only=True)
class WorkerKeys:
    """The settings as written, in the shared file and the worker's file together."""

    worker_app: str | None = setting(
        optional(STRING), None, "Kind of worker; absent in the main process."
    )
    worker_name: str | None = setting(optional(STRING), None, "Unique name of this worker.")
    worker_listeners: tuple[Listener, ...] = setting(
        LISTENERS, (), "As `listeners`, for this worker.", shown=[]
    )
    worker_log_config: Path | None = setting(
        optional(PATH), None, "As `log_config`, for this worker."
    )
    worker_pid_file: Path | None = setting(optional(PATH), None, "As `pid_file`, for this worker.")
    worker_replication_secret: str | None = secret(
        "Secret shared by all processes; derived from the signing key if missing or empty."
    )
    worker_replication_host: str | None = setting(
        optional(STRING), None, "Old form of `instance_map.main.host`."
    )
    worker_replication_http_port: int | None = setting(
        optional(PORT), None, "Old form of `instance_map.main.port`."
    )
    worker_replication_http_tls: bool = setting(
        BOOLEAN, False, "Old form of `instance_map.main.tls`."
    )
    worker_main_http_uri: str | None = setting(
        optional(STRING), None, "Accepted and not needed: every worker takes key uploads."
    )
    instance_map: Mapping[str, InstanceAddress] = setting(
        map_of(Kind("address", _read_address, _ADDRESS.schema)),
        MappingProxyType({}),
        "Where each process is reached by the others.",
        shown={},
    )
    stream_writers: Mapping[str, tuple[str, ...]] = setting(
        WRITERS, MappingProxyType({}), "Which process writes which stream.", shown={}
    )
    run_background_tasks_on: str | None = setting(
        optional(STRING), None, "The process for periodic tasks; main when missing."
    )
    update_user_directory_from_worker: str | None = setting(
        optional(STRING), None, "The process that keeps the user directory; main when missing."
    )
    notify_appservices_from_worker: str | None = setting(
        optional(STRING), None, "The process that sends to appservices; main when missing."
    )
    start_pushers: bool = setting(BOOLEAN, True, "The main process sends notifications.")
    pusher_instances: tuple[str, ...] = setting(
        NAMES, (), "The processes that send notifications.", shown=[]
    )
    send_federation: bool = setting(BOOLEAN, True, "The main process sends to other servers.")
    federation_sender_instances: tuple[str, ...] = setting(
        NAMES, (), "The processes that send to other servers.", shown=[]
    )
    outbound_federation_restricted_to: tuple[str, ...] = setting(
        NAMES,
        (),
        "The only processes that send requests to other servers; the rest send through them.",
        shown=[],
    )
    enable_media_repo: bool = setting(BOOLEAN, True, "This process serves media.")
    media_instance_running_background_jobs: str | None = setting(
        optional(STRING), None, "The process for the media's periodic tasks."
    )
    unsafe_replication_without_secret: bool = setting(
        BOOLEAN, False, "Allow a replication listener on a public address without a secret."
    )
    notify_appservices: bool = setting(
        BOOLEAN, True, "Old switch: false when a worker of type appservice sends."
    )
    update_user_directory: bool = setting(
        BOOLEAN, True, "Old switch: false when a worker of type user_dir updates."
    )


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """This process and the others, with both dialects and all defaults resolved.

    Names are `main` or a worker's name. `writers` has an entry for each name in STREAMS. A duty has
    no holders if only an old switch says that another process has it, without naming the process.
    If any are named, only `peer_processes` connect to other servers.
    """

    name: str = MAIN
    app: str = MAIN_APP
    secret: str | None = attrs.field(default=None, repr=False)
    instances: Mapping[str, InstanceAddress] = MappingProxyType({})
    writers: Mapping[str, tuple[str, ...]] = MappingProxyType(dict.fromkeys(STREAMS, (MAIN,)))
    background_tasks: tuple[str, ...] = (MAIN,)
    user_directory: tuple[str, ...] = (MAIN,)
    appservices: tuple[str, ...] = (MAIN,)
    pushers: tuple[str, ...] = (MAIN,)
    federation_senders: tuple[str, ...] = (MAIN,)
    peer_processes: tuple[str, ...] = ()
    media_jobs: tuple[str, ...] = (MAIN,)
    serves_media: bool = True

    @property
    def is_main(self) -> bool:
        """Whether this is the main process."""
        return self.name == MAIN

    @property
    def others(self) -> frozenset[str]:
        """Names of the other processes that the configuration mentions."""
        holders = (
            *self.background_tasks,
            *self.user_directory,
            *self.appservices,
            *self.pushers,
            *self.federation_senders,
            *self.peer_processes,
            *self.media_jobs,
        )
        writers = (name for names in self.writers.values() for name in names)
        return frozenset({*holders, *writers, *self.instances}) - {self.name}

    def writes(self, stream: str) -> bool:
        """Return whether this process writes a stream, or a shard of it."""
        return self.name in self.writers[stream]
