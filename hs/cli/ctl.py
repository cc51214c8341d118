"""`hs ctl`: starts and stops the processes of a server in the background, as synctl does."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import click

from hs.cli.options import DEFAULT_DATA
from hs.nursery.supervision.process_files import ProcessFiles, load_all
from hs.nursery.supervision.server_files import find_processes
from hs.nursery.supervision.supervisor import start_stages, stop_stages
from hs.nursery.systemd import READY
from hs.settings.errors import Problem, SettingsError
from hs.settings.generate import CONFIG_NAME
from hs.settings.ineffective import RESTRICTING_KEYS
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

START_S = 300.0
STOP_S = 60.0
LOOK_S = 0.05
EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3  # as of service managers: LSB, init script actions
_TAIL = 2000
_PROGRAM = "from hs.cli.main import run; run()"


@attrs.frozen
class ControlledProcess:
    """A process of the server, and its PID file."""

    files: ProcessFiles
    settings: Settings
    pid_file: Path

    @property
    def name(self) -> str:
        """Name of the process."""
        return self.files.name

    @property
    def output_file(self) -> Path:
        """File for what the process writes besides its log."""
        return self.pid_file.with_suffix(".out")

    def pid(self) -> int | None:
        """Return the process ID, if the process runs."""
        try:
            pid = int(self.pid_file.read_text("ascii"))
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return None if state == "Z" else pid

    def command(self) -> list[str]:
        """Return the command that runs the process."""
        options = [part for path in self.files.files for part in ("-c", str(path))]
        return [sys.executable, "-c", _PROGRAM, "serve", *options]


@click.command(
    epilog="Exit status: 0 on success, 1 if a process does not start or stop, 2 if the "
    "configuration is wrong, 3 from `status` if a process does not run."
)
@click.argument("action", type=click.Choice(["start", "stop", "restart", "status"]))
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "-a",
    "--all-processes",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Directory with the files of workers; homeserver.yaml there or in CONFIG.",
)
@click.option(
    "-w",
    "--worker",
    type=click.Path(path_type=Path),
    help="Only the worker of this file; homeserver.yaml is CONFIG.",
)
@click.option("--daemonize/--no-daemonize", default=True, help="Return once all are ready.")
def ctl(
    action: str, config: Path | None, folder: Path | None, worker: Path | None, daemonize: bool
) -> None:
    """Start, stop or show processes in the background.

    Under systemd, use its units; `hs supervise` needs less memory for the same processes. main
    needs `pid_file`, and a worker `worker_pid_file` in its own file; what a process writes besides
    its log is in a file beside it that ends in .out. CONFIG is homeserver.yaml. --no-daemonize runs
    a single process in the foreground.

    \b
        hs ctl start homeserver.yaml -a workers/
        hs ctl restart homeserver.yaml -w workers/sync1.yaml
        hs ctl status homeserver.yaml -a workers/
    """
    processes = _processes(config or DEFAULT_DATA / CONFIG_NAME, folder, worker)
    if action == "status":
        sys.exit(_show(processes))
    if action in ("stop", "restart") and not _stop_all(processes):
        sys.exit(EXIT_FAILED)
    if action in ("start", "restart"):
        sys.exit(_start_all(processes, daemonize))


def _processes(
    config: Path, folder: Path | None, worker: Path | None
) -> dict[str, ControlledProcess]:
    """Return the processes by name. Raises: SettingsError."""
    if folder is not None:
        found = find_processes(folder, None if (folder / CONFIG_NAME).exists() else config)
    elif worker is not None:
        found = [ProcessFiles(name="", files=(config, worker))]
    else:
        found = [ProcessFiles(name=MAIN, files=(config,))]
    settings = load_all(found, RESTRICTING_KEYS)
    processes: dict[str, ControlledProcess] = {}
    problems: list[Problem] = []
    for files in found:
        mine = settings[files.name]
        name, pid_file = mine.workers.name, mine.server.pid_file
        if pid_file is None:
            key = "pid_file" if mine.workers.is_main else "worker_pid_file"
            message = f"missing: `hs ctl` needs it to find {name}"
            remedy = f"add `{key}: /run/hs/{name}.pid`"
            found_problem = Problem(key=key, message=message, remedy=remedy)
            problems += mine.locate(SettingsError([found_problem])).problems
        else:
            named = attrs.evolve(files, name=name)
            processes[name] = ControlledProcess(named, mine, pid_file)
    if problems:
        raise SettingsError(problems)
    return processes


def _ordered(
    processes: dict[str, ControlledProcess],
    stages: Callable[[dict[str, Settings]], list[list[str]]],
) -> list[list[ControlledProcess]]:
    settings = {name: process.settings for name, process in processes.items()}
    named = stages(settings)
    missing = [name for name in processes if not any(name in stage for stage in named)]
    return [[processes[name] for name in stage if name in processes] for stage in (*named, missing)]


def _show(processes: dict[str, ControlledProcess]) -> int:
    status = 0
    for name, process in processes.items():
        pid = process.pid()
        click.echo(f"{name}: {'not running' if pid is None else f'running, process {pid}'}")
        status = status or (EXIT_NOT_RUNNING if pid is None else 0)
    return status


def _stop_all(processes: dict[str, ControlledProcess]) -> bool:
    """Stop the processes that run; return whether all of them ended by themselves."""
    stopped = True
    for stage in _ordered(processes, stop_stages):
        running = [(process, pid) for process in stage if (pid := process.pid()) is not None]
        for _, pid in running:
            os.kill(pid, signal.SIGTERM)
        for process, pid in running:
            if _has_ended(process, pid):
                click.echo(f"{process.name}: stopped")
                continue
            os.kill(pid, signal.SIGKILL)
            stopped = False
            click.echo(f"{process.name}: did not stop, killed", err=True)
            _has_ended(process, pid)
    return stopped


def _has_ended(process: ControlledProcess, pid: int) -> bool:
    """Wait for the end of a process; return whether it came in time."""
    deadline = time.monotonic() + STOP_S
    while process.pid() == pid:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _start_all(processes: dict[str, ControlledProcess], daemonize: bool) -> int:
    if not daemonize:
        if len(processes) > 1:
            raise click.UsageError("--no-daemonize runs one process: name it with --worker")
        (process,) = processes.values()
        os.execv(sys.executable, process.command())
    for stage in _ordered(processes, start_stages):
        if not _start(stage):
            return EXIT_FAILED
    return 0


def _start(stage: Sequence[ControlledProcess]) -> bool:
    """Start processes together, and wait until all are ready; return whether they are."""
    with ExitStack() as starting:
        started = []
        for process in stage:
            pid = process.pid()
            if pid is not None:
                click.echo(f"{process.name}: runs already, process {pid}")
                continue
            started.append((process, starting.enter_context(_Start.of(process))))
        reports = [_report(process, start) for process, start in started]
    return all(reports)


def _report(process: ControlledProcess, start: "_Start") -> bool:
    if start.is_ready():
        click.echo(f"{process.name}: started, process {start.child.pid}")
        return True
    click.echo(f"{process.name}: did not start", err=True)
    click.echo(process.output_file.read_text("utf-8", "replace")[-_TAIL:], err=True)
    return False


@attrs.frozen(eq=False)
class _Start:
    """A process that is starting, and the socket on which it reports that it is ready."""

    child: "subprocess.Popen[bytes]"
    socket: socket.socket

    @classmethod
    @contextmanager
    def of(cls, process: ControlledProcess) -> "Iterator[_Start]":
        """Start a process in a session of its own, with its output in a file."""
        with (
            tempfile.TemporaryDirectory(prefix="hs-ctl-") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            process.output_file.open("wb") as output,
        ):
            notified.bind(f"{folder}/notify")
            notified.settimeout(LOOK_S)
            child = subprocess.Popen(
                process.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "NOTIFY_SOCKET": f"{folder}/notify"},
            )
            yield cls(child, notified)

    def is_ready(self) -> bool:
        """Wait until the process is ready; return False if it has ended, or takes too long."""
        deadline = time.monotonic() + START_S
        while self.child.poll() is None and time.monotonic() < deadline:
            try:
                if self.socket.recv(1024) == READY.encode():
                    return True
            except TimeoutError:
                continue
        return False
