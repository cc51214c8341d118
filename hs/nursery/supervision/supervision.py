"""From a server's configuration to its running processes: what `hs supervise` does."""

import contextlib
import errno
import fcntl
import io
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Final

import trio

from hs.lib.files import make_folders
from hs.lib.log import configure
from hs.nursery.exit_causes import first_leaf
from hs.nursery.signals import watch_signals
from hs.nursery.supervision.control_socket import SOCKET_NAME, open_control_socket, serve_control
from hs.nursery.supervision.fork_server import start_fork_server
from hs.nursery.supervision.forks import Forks, ForkServerGone
from hs.nursery.supervision.managed_process import ProcessGivenUp
from hs.nursery.supervision.opened_sockets import OpenedSockets
from hs.nursery.supervision.supervisor import ServerPlan, Supervisor
from hs.nursery.systemd import keep_watchdog
from hs.settings.errors import EXIT_BAD_CONFIG, Origin, Problem, SettingsError

PREDECESSOR_S: Final = 70.0
NAME: Final = "supervise"
_LOCK: Final = "lock"
_NAME_WIDTH: Final = 16

log = logging.getLogger(__name__)


def take_lock(folder: Path) -> int:
    """Lock the run folder against a second supervisor; return the open file.

    All processes of the server keep it open. Those of a supervisor that was killed are waited for.

    Raises: SettingsError, if a supervisor runs.
    """
    make_folders(folder)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PREDECESSOR_S
    is_told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _answers(folder) or time.monotonic() > deadline:
                message = "another `hs supervise` runs this server"
                remedy = "use it: `hs restart --rolling`, or stop it first"
                raise SettingsError([_problem(folder, message, remedy)]) from None
            if not is_told:
                is_told = True
                _write_line(NAME, "waiting for the processes of an earlier run to end")
            time.sleep(0.1)
        else:
            return lock


def _answers(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(folder / SOCKET_NAME))
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ECONNREFUSED)
        return True


def _problem(folder: Path, message: str, remedy: str) -> Problem:
    return Problem(key="", message=message, remedy=remedy, origin=Origin(file=folder))


def supervise(plan: ServerPlan, folder: Path, lock: int) -> int:
    """Run all processes of a server until a signal stops them; return the exit status.

    `folder` is the run folder, and `lock` its lock. The caller has one thread, and has imported
    what the processes need.

    Raises: SettingsError, before anything was started.
    """
    configure(logging.StreamHandler(_NamedLines()))
    sockets = OpenedSockets()
    forks = Forks(*start_fork_server(), _write_line)
    supervisor = Supervisor(plan, sockets, forks, _write_line, lock)
    try:
        supervisor.load()
        with open_control_socket(folder) as control:
            trio.run(_run, supervisor, control)
    except BaseExceptionGroup as group:
        return _report(group)
    finally:
        (folder / SOCKET_NAME).unlink(missing_ok=True)
        sockets.remove_files()
        supervisor.forks.close()
    return 0


async def _run(supervisor: Supervisor, control: socket.socket) -> None:
    async with trio.open_nursery() as nursery:

        def reload() -> None:
            nursery.start_soon(supervisor.reload)

        await nursery.start(watch_signals, supervisor.stop_requested.set, reload)
        nursery.start_soon(serve_control, control, supervisor)
        nursery.start_soon(keep_watchdog)
        await supervisor.run()
        nursery.cancel_scope.cancel()


def _report(group: BaseExceptionGroup[BaseException]) -> int:
    """Report why the supervisor ends; return its exit status. Raises: a bug, as it is."""
    leaf = first_leaf(group)
    if not isinstance(leaf, ProcessGivenUp | ForkServerGone | SettingsError):
        raise group
    for line in str(leaf).splitlines():
        _write_line(NAME, line)
    if isinstance(leaf, ProcessGivenUp):
        return leaf.status
    return EXIT_BAD_CONFIG if isinstance(leaf, SettingsError) else 1


def _write_line(name: str, line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads the log any more
        sys.stderr.write(f"{name:{_NAME_WIDTH}} | {line}\n")
        sys.stderr.flush()


class _NamedLines(io.TextIOBase):
    """A stream that writes the lines of the supervisor's own log."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            _write_line(NAME, line)
        return len(text)
