"""systemd units for the processes of a server; `config/systemd` has the usual ones."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from hs.nursery.supervision.process_files import ProcessFiles
from hs.settings.errors import Origin, Problem, SettingsError
from hs.settings.log_config import log_files
from hs.settings.sections.media import FolderProviderSettings
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

STATE: Final = Path("/var/lib")
_RUN: Final = Path("/run")
_SUPERVISOR_STOP_S: Final = 150
_HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))
_PLAIN_PATH: Final = re.compile(r"[\w/.,:@+=~-]+")
_FIRST_UNPRIVILEGED_PORT: Final = 1024
_NO_CAPABILITIES: Final = "CapabilityBoundingSet="
_BIND_CAPABILITIES: Final = """\
# For the listeners below port 1024.
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE"""

_SERVICE: Final = """
[Service]
Type=notify
NotifyAccess=main
User={user}
Group={user}
WorkingDirectory={data}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=3
# Exit code 2: the configuration cannot be used, so a restart does not help.
RestartPreventExitStatus=2
TimeoutStartSec=300
TimeoutStopSec={stop_s}
# A process whose event loop hangs is ended and started again.
WatchdogSec=60
LimitNOFILE=65536
SyslogIdentifier={identifier}

{state}UMask=0077
NoNewPrivileges=true
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome={protect_home}
PrivateTmp=true
PrivateDevices=true
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectKernelLogs=true
ProtectControlGroups=true
ProtectClock=true
ProtectHostname=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
{capabilities}
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy={target}
"""
_AFTER: Final = "After=network-online.target postgresql.service redis-server.service\n"
_MAIN: Final = f"""\
[Unit]
Description=Matrix homeserver hs, main process
PartOf=hs.target
{_AFTER}"""
_SUPERVISOR: Final = f"""\
[Unit]
Description=Matrix homeserver hs, all processes
Wants=network-online.target
{_AFTER}"""
_TARGET: Final = """\
[Unit]
Description=Matrix homeserver hs, all processes
After=network-online.target
Wants=network-online.target hs.service

[Install]
WantedBy=multi-user.target
"""
_WORKER: Final = """\
# One instance per worker: hs@sync1 runs the worker configured in {folder}/sync1.yaml.
[Unit]
Description=Matrix homeserver hs, worker %i
AssertPathExists={folder}/%i.yaml
PartOf=hs.target
ReloadPropagatedFrom=hs.service
# The main process updates the database schema.
After=hs.service
"""


@attrs.frozen(kw_only=True)
class Installation:
    """Where the program, its data and its configuration are, and its user.

    `writable` are more folders that it writes to. With `has_privileged_ports` it may listen below
    port 1024. Raises: SettingsError, for a path that a unit cannot have.
    """

    program: Path
    data: Path
    user: str
    config: Sequence[Path] = ()
    writable: Sequence[Path] = ()
    has_privileged_ports: bool = False

    def __attrs_post_init__(self) -> None:
        _check_paths(self._paths)

    @property
    def _paths(self) -> tuple[Path, ...]:
        return (self.program, self.data, *self.config, *self.writable)

    def service(
        self, unit: str, options: str, identifier: str, target: str = "hs.target", stop_s: int = 60
    ) -> str:
        """Return the text of a unit that runs a command of hs."""
        has_state = self.data.parent == STATE
        state = f"StateDirectory={self.data.name}\nStateDirectoryMode=0750\n" if has_state else ""
        folders = [
            self.data,
            *(path for path in self.writable if not path.is_relative_to(self.data)),
        ]
        # /run is empty after a boot. Units share the directory, so none removes it at its end.
        runtime = " ".join(dict.fromkeys(path.name for path in folders if path.parent == _RUN))
        if runtime:
            state += f"RuntimeDirectory={runtime}\nRuntimeDirectoryPreserve=yes\n"
        return unit + _SERVICE.format(
            user=self.user,
            data=self.data,
            command=f"{self.program} {options}",
            stop_s=stop_s,
            identifier=identifier,
            state=state,
            writable=" ".join(map(str, dict.fromkeys(folders))),
            # With "true", what is in these directories does not exist for the process.
            protect_home="read-only" if any(map(_is_in_home, self._paths)) else "true",
            capabilities=_BIND_CAPABILITIES if self.has_privileged_ports else _NO_CAPABILITIES,
            target=target,
        )


def units_of_processes(
    installed: Installation, processes: Sequence[ProcessFiles]
) -> dict[str, str]:
    """Return a unit for main, a template for workers if there are any, and a target for all.

    Raises: SettingsError, if the files of workers do not fit one template.
    """
    main, *workers = processes
    shared = _options(main.files)
    units = {
        "hs.target": _TARGET,
        "hs.service": installed.service(_MAIN, f"serve {shared}", "hs"),
    }
    if workers:
        folder = _folder_of(workers)
        options = f"serve {_options(workers[0].files[:-1])} -c {folder}/%i.yaml"
        units["hs@.service"] = installed.service(_WORKER.format(folder=folder), options, "hs-%i")
    return units


def unit_of_supervisor(installed: Installation, source: Path) -> dict[str, str]:
    """Return a unit that runs all processes that a directory configures."""
    options = f"supervise --config {source} --data-dir {installed.data}"
    text = installed.service(_SUPERVISOR, options, "hs", "multi-user.target", _SUPERVISOR_STOP_S)
    return {"hs.service": text}


def instances_of(processes: Sequence[ProcessFiles]) -> list[str]:
    """Return the services to enable, main first."""
    workers = (process.files[-1].stem for process in processes if process.name != MAIN)
    return ["hs.service", *(f"hs@{name}.service" for name in workers)]


def folders_written(all_settings: Mapping[str, Settings]) -> list[Path]:
    """Return the folders that processes write to by their configuration."""
    folders = (folder for settings in all_settings.values() for folder in _folders_of(settings))
    return list(dict.fromkeys(folders))


def has_privileged_ports(all_settings: Mapping[str, Settings]) -> bool:
    """Return whether a process listens on a port that only privileged processes may open."""
    return any(
        listener.port is not None and listener.port < _FIRST_UNPRIVILEGED_PORT
        for settings in all_settings.values()
        for listener in settings.opened_listeners
    )


def _folders_of(settings: Settings) -> Iterable[Path]:
    yield settings.media.media_store_path.absolute()
    for provider in settings.media.media_storage_providers:
        if isinstance(provider.place, FolderProviderSettings) and provider.place.directory:
            yield provider.place.directory.absolute()
    sockets = [listener.path for listener in settings.opened_listeners]
    database = settings.database.path if settings.database.is_sqlite else None
    logs = [path for path in log_files(settings.logging) if path.is_absolute()]
    for path in (settings.server.pid_file, database, *sockets, *logs):
        if path is not None and str(path) != ":memory:":
            yield path.absolute().parent


def _check_paths(paths: Iterable[Path]) -> None:
    """Refuse paths with characters that mean something in units. Raises: SettingsError."""
    problems = [
        Problem(
            key="",
            message=f"{str(path)!r} cannot be named in a unit",
            remedy="use a path without spaces, quotes, % and $",
        )
        for path in paths
        if _PLAIN_PATH.fullmatch(str(path)) is None
    ]
    if problems:
        raise SettingsError(problems)


def _is_in_home(path: Path) -> bool:
    return any(path.is_relative_to(home) for home in _HOMES)


def _options(files: Sequence[Path]) -> str:
    return " ".join(f"-c {path.absolute()}" for path in files)


def _folder_of(workers: Sequence[ProcessFiles]) -> Path:
    """Return the folder of the files of all workers."""
    folder = workers[0].files[-1].absolute().parent
    problems = [
        Problem(
            key="",
            message=f"one unit for all workers needs their files as {folder}/NAME.yaml",
            remedy="move the file, or use --supervise",
            origin=Origin(file=path),
        )
        for path in (process.files[-1] for process in workers)
        if path.absolute().parent != folder or path.suffix != ".yaml"
    ]
    if problems:
        raise SettingsError(problems)
    return folder
