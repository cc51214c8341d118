"""The files of a server's processes, generated from a shape such as `event_persister:2,sync:2`.

A part of a shape is KIND, KIND:NUMBER or NAME=KIND+KIND:NUMBER, whose processes do several things;
the names of kinds that Synapse's container takes are accepted too.

Rules:

- What homeserver.yaml says stays: its listeners, its `instance_map.main`, its Redis. What the shape
  decides (which process does what) must not be in the file as well.
- Processes call each other on UNIX sockets in the run directory, or, in files that are written for
  a service manager, on ports of this host.
- Names end in a number, also if there is only one process of a kind: a second one renames nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import yaml

from hs.lib.files import make_folders, open_new
from hs.nursery.supervision.process_files import ProcessFiles
from hs.nursery.supervision.server_files import WORKER_FOLDER
from hs.settings.documents import Document, read_documents
from hs.settings.errors import Origin, Problem, SettingsError
from hs.settings.fields import did_you_mean
from hs.settings.generate import CONFIG_NAME
from hs.settings.sections.workers import MAIN, SHARDED_STREAMS, STREAMS

OPTION: Final = "--workers"
GENERIC: Final = "synapse.app.generic_worker"
MAX_OF_A_KIND: Final = 64
_FIRST_REPLICATION_PORT: Final = 9093
_PATH_ENDINGS: Final = ("_path", "_file", "log_config")

_PERSISTER: Final = "event_persister"
_CLIENTS: Final = {
    "sync": ("client", "federation"),
    "client": ("client", "federation"),
    "federation_reader": ("federation",),
    "media": ("media",),
}
"""Kinds that serve others, with the resources of their listener."""
_DUTIES: Final = {
    "federation_sender": "federation_sender_instances",
    "pusher": "pusher_instances",
    "background": "run_background_tasks_on",
    "user_directory": "update_user_directory_from_worker",
    "appservice": "notify_appservices_from_worker",
}
"""Kinds with a duty, and the key that assigns it."""
_LISTS: Final = ("federation_sender_instances", "pusher_instances")
_WRITERS: Final = tuple(stream for stream in STREAMS if stream != "events")
KINDS: Final = (_PERSISTER, *_CLIENTS, *_DUTIES, *_WRITERS)
_DECIDED: Final = (
    "stream_writers",
    "media_instance_running_background_jobs",
    *_DUTIES.values(),
)
_PART: Final = re.compile(r"(?:([a-z][a-z_]*)=)?([a-z_]+(?:\+[a-z_]+)*)(?::(\d{1,3}))?")
_FORM: Final = "KIND, KIND:NUMBER or NAME=KIND+KIND:NUMBER"
_OF_SYNAPSE: Final = {
    "background_worker": "background",
    "client_reader": "client",
    "event_creator": "client",
    "federation_inbound": "federation_reader",
    "media_repository": "media",
    "synchrotron": "sync",
    "user_dir": "user_directory",
}

ReplicationAddress = Callable[[str], Mapping[str, Any]]
"""Returns the address at which a process takes calls: `path`, or `host` and `port`."""


@attrs.frozen
class WorkerGroup:
    """Processes that do the same: their number, and the kinds of workers that each of them is."""

    kinds: tuple[str, ...]
    count: int = 1


Shape = Mapping[str, WorkerGroup]
"""Groups of workers by name; the names of the processes are this and a number."""


def parse_shape(text: str) -> Shape:
    """Parse a shape. Raises: SettingsError."""
    groups: dict[str, WorkerGroup] = {}
    problems: list[Problem] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _PART.fullmatch(part)
        if match is None or not 1 <= int(match[3] or 1) <= MAX_OF_A_KIND:
            problems.append(_problem(f"{part!r} is not {_FORM}", "write sync:2"))
            continue
        name, written, count = match[1] or match[2], match[2].split("+"), int(match[3] or 1)
        kinds = tuple(_OF_SYNAPSE.get(kind, kind) for kind in written)
        if "+" in name:
            problems.append(_problem(f"{part!r} has no name", f"write writers={part}"))
        elif name in groups or len(set(kinds)) < len(kinds):
            problems.append(_problem(f"{part}: named twice", "add the numbers"))
        problems += map(_unknown_kind, [kind for kind in kinds if kind not in KINDS])
        groups[name] = WorkerGroup(kinds, count)
    for kind, names in _holders(groups).items():
        if len(names) > 1 and _is_lone(kind):
            problems.append(_problem(f"only one process can be {kind}", f"write {kind} once"))
    if not groups and not problems:
        problems.append(_problem("no worker is named", "write sync:2,event_persister:2"))
    if problems:
        raise SettingsError(problems)
    return groups


def _holders(groups: Shape) -> dict[str, list[str]]:
    """Return the names of the processes of each kind."""
    holders: dict[str, list[str]] = {}
    for name, group in groups.items():
        for kind in group.kinds:
            holders.setdefault(kind, []).extend(_names(name, group))
    return holders


def _names(name: str, group: WorkerGroup) -> list[str]:
    """Return the names of the processes of a group."""
    return [f"{name}{number}" for number in range(1, group.count + 1)]


def _unknown_kind(kind: str) -> Problem:
    message = f"there is no kind of worker {kind!r}" + did_you_mean(kind, KINDS)
    return _problem(message, f"use {', '.join(KINDS)}")


def _is_lone(kind: str) -> bool:
    if kind in _WRITERS:
        return kind not in SHARDED_STREAMS
    return kind in _DUTIES and _DUTIES[kind] not in _LISTS


def _problem(message: str, remedy: str) -> Problem:
    return Problem(key="", message=message, remedy=remedy, origin=Origin(file=Path(OPTION)))


@attrs.frozen(kw_only=True)
class GeneratedServer:
    """The settings that a shape adds to homeserver.yaml, for all processes and for each worker."""

    shared: Mapping[str, Any]
    workers: Mapping[str, Mapping[str, Any]]

    def processes(self, files: tuple[Path, ...]) -> list[ProcessFiles]:
        """Return the processes, main first."""
        return [
            ProcessFiles(name=name, files=files, overlay={**self.shared, **own})
            for name, own in {MAIN: {}, **self.workers}.items()
        ]


def generate_server(
    groups: Shape,
    document: Document,
    replication: ReplicationAddress,
    first_port: int,
) -> GeneratedServer:
    """Generate the settings of all processes; those that serve clients listen from `first_port`.

    Raises: SettingsError, if homeserver.yaml decides what the shape decides.
    """
    values = document.values
    _refuse_decided(document)
    names = _holders(groups)
    writers: dict[str, Any] = {kind: names[kind] for kind in names if kind in _WRITERS}
    if _PERSISTER in names:
        writers["events"] = names[_PERSISTER]
    callable_names = {name for holders in writers.values() for name in holders}
    callable_names |= {name for kind in _CLIENTS for name in names.get(kind, ())}
    addresses = {name: replication(name) for name in sorted(callable_names)}
    shared: dict[str, Any] = _duties(names)
    if writers:
        shared["stream_writers"] = writers
    shared["instance_map"] = {**_main_address(values, replication, shared), **addresses}
    ports = _free_ports(values, first_port)
    workers: dict[str, Mapping[str, Any]] = {}
    for group_name, group in groups.items():
        for name in _names(group_name, group):
            listeners = [_listener(addresses[name], ["replication"])] if name in addresses else []
            resources = [resource for kind in group.kinds for resource in _CLIENTS.get(kind, ())]
            if resources:
                public = {"port": next(ports), "bind_addresses": ["127.0.0.1"]}
                unique = list(dict.fromkeys(resources))
                listeners.append({**_listener(public, unique), "x_forwarded": True})
            own: dict[str, Any] = {"worker_app": GENERIC, "worker_name": name}
            if listeners:
                own["worker_listeners"] = listeners
            if "media" in group.kinds:
                own["enable_media_repo"] = True
            if group.kinds == ("media",):
                own["worker_app"] = "synapse.app.media_repository"
            workers[name] = own
    return GeneratedServer(shared=shared, workers=workers)


def write_files(source: Path, groups: Shape, first_port: int, target: Path) -> list[Path]:
    """Write the files of all processes, which call each other on ports; return their paths.

    homeserver.yaml gets the keys of `source`, without its comments. Raises: SettingsError, OSError.
    """
    document = read_documents([source])
    ports = _free_ports(document.values, _FIRST_REPLICATION_PORT)
    server = generate_server(
        groups, document, lambda _: {"host": "127.0.0.1", "port": next(ports)}, first_port
    )
    folder = source.absolute().parent
    shared = {**document.values, **server.shared}
    shared.setdefault("redis", {"enabled": True})
    shared.setdefault("signing_key_path", f"{shared.get('server_name')}.signing.key")
    shared.setdefault("media_store_path", "media_store")
    for key, value in shared.items():
        if isinstance(value, str) and key.endswith(_PATH_ENDINGS):
            shared[key] = str(folder / value)  # the file moves, and what it names stays
    texts: dict[Path, Mapping[str, Any]] = {target / CONFIG_NAME: shared}
    texts |= {target / WORKER_FOLDER / f"{name}.yaml": own for name, own in server.workers.items()}
    for path, keys in texts.items():
        make_folders(path.parent)
        with open(open_new(path), "w", encoding="utf-8") as file:
            yaml.safe_dump(dict(keys), file, sort_keys=False)
    return list(texts)


def _duties(names: Mapping[str, list[str]]) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    for kind, key in _DUTIES.items():
        if kind in names:
            shared[key] = names[kind] if key in _LISTS else names[kind][0]
    if "media" in names:
        shared["enable_media_repo"] = False
        shared["media_instance_running_background_jobs"] = names["media"][0]
    return shared


def _main_address(
    values: Mapping[str, Any], replication: ReplicationAddress, shared: dict[str, Any]
) -> Mapping[str, Any]:
    """Return main's entry of instance_map; add a replication listener to main if it has none."""
    instances = values.get("instance_map")
    if isinstance(instances, dict) and instances.get(MAIN):
        return {MAIN: instances[MAIN]}
    address = replication(MAIN)
    listeners = values.get("listeners")
    if not isinstance(listeners, list):
        listeners = [_listener({"port": 8008, "bind_addresses": ["127.0.0.1"]}, _CLIENTS["sync"])]
    shared["listeners"] = [*listeners, _listener(address, ["replication"])]
    return {MAIN: address}


def _listener(address: Mapping[str, Any], resources: Iterable[str]) -> dict[str, Any]:
    place = dict(address)
    if "host" in place:
        place["bind_addresses"] = [place.pop("host")]
    elif "path" in place:
        place["mode"] = 0o600
    return {**place, "type": "http", "resources": [{"names": list(resources)}]}


def _free_ports(values: Mapping[str, Any], first: int) -> Iterator[int]:
    listeners = values.get("listeners")
    taken = {
        listener.get("port")
        for listener in (listeners if isinstance(listeners, list) else ())
        if isinstance(listener, dict)
    }
    return iter(port for port in range(first, 65536) if port not in taken)


def _refuse_decided(document: Document) -> None:
    problems = [
        Problem(
            key=key,
            message=f"contradicts {OPTION}, which assigns the tasks",
            remedy=f"remove the key, or run `hs supervise --config DIRECTORY` without {OPTION}",
            origin=document.origins.get(key, Origin()),
        )
        for key in _DECIDED
        if document.values.get(key)
    ]
    if problems:
        raise SettingsError(problems)
