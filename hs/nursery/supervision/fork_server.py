"""The fork server: a process that has imported everything, and forks the processes of a server.

Why: a process that starts by itself imports for seconds, and has all modules and classes in memory
of its own. A fork has them from the beginning, and shares the memory.

Rules:

- It has one thread and no event loop, so a fork inherits no lock that is held.
- It builds all processes once and throws them away: that fills caches that all of them use, and
  finds mistakes in the configuration before anything has started. Then its memory is frozen for
  the garbage collector, which would otherwise write to shared pages. Before a process is
  restarted, it is built again here, with its files as they are then.
- It is the parent of all children, and reads their exit statuses; it sends the signals, so that
  none reaches another process with a reused ID.
- When the supervisor is gone, however it ended, the socket to it closes: the children are asked to
  stop, servers before programs that they need, and killed after a time.
- When the fork server itself is gone, the kernel kills its children (PR_SET_PDEATHSIG). So there
  are no orphans.
- It is in a session of its own: Ctrl-C reaches the supervisor only, which stops in order.
"""

import contextlib
import ctypes
import gc
import grp
import linecache
import logging
import os
import pwd
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import attrs

from hs.lib.allocator import give_memory_back
from hs.nursery.supervision.forked_process import build_all, run_forked
from hs.nursery.supervision.requests import (
    Ended,
    PackedProblem,
    Packet,
    Prepared,
    PrepareRequest,
    ProgramRequest,
    Report,
    ServeRequest,
    SignalRequest,
    Started,
    decode_request,
    encode,
    receive_packet,
)
from hs.repl import redis_cluster
from hs.storage.postgres import database as postgres_database

# Imported by name where they are needed; here, for all children at once.
PRELOADED: Final = (redis_cluster, postgres_database)
SERVERS_STOP_S: Final = 40.0
PROGRAMS_STOP_S: Final = 20.0
_SET_DEATH_SIGNAL: Final = 1
_SET_NAME: Final = 15
_MAX_NAME: Final = 15
_NEW: Final = (
    "import socket, sys\n"
    "from hs.nursery.supervision.fork_server import serve_forks\n"
    "serve_forks(socket.socket(fileno=int(sys.argv[1])))\n"
)
_EXEC_FAILED: Final = 127


@attrs.frozen
class Child:
    """A child that runs; `is_program` is false for processes of the server."""

    pid: int
    stop_signal: int
    is_program: bool


@attrs.define(eq=False)
class ForkServer:
    """The children, and the socket to the supervisor."""

    _supervisor: socket.socket
    _children: dict[int, Child] = attrs.field(factory=dict)
    _wake: tuple[int, int] = attrs.field(factory=lambda: os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))

    def run(self) -> None:
        """Obey the supervisor until it is gone, then stop all children."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._supervisor, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wake[0] in ready:
                os.read(self._wake[0], 4096)
                self._reap(self._report)
            if self._supervisor.fileno() in ready:
                packet = self._receive()
                if not packet.payload:
                    break
                self._obey(packet)
        self._stop_all()

    def _receive(self) -> Packet:
        try:
            return receive_packet(self._supervisor)
        except ConnectionError:
            return Packet(b"", [])

    def _obey(self, packet: Packet) -> None:
        request = decode_request(packet.payload)
        if isinstance(request, SignalRequest):
            self._signal(request.pid, request.number)
            return
        if isinstance(request, PrepareRequest):
            self._prepare(request)
            return
        pid = os.fork()
        if pid == 0:
            self._become(request, packet.files)
        for fd in packet.files:
            os.close(fd)
        if isinstance(request, ProgramRequest):
            self._children[pid] = Child(pid, request.stop_signal, is_program=True)
        else:
            self._children[pid] = Child(pid, signal.SIGTERM, is_program=False)
        self._report(Started(pid=pid))

    def _prepare(self, request: PrepareRequest) -> None:
        problems = build_all(request.sources)
        freeze_memory()
        self._report(Prepared(problems=[PackedProblem.of(problem) for problem in problems]))

    def _become(self, request: ServeRequest | ProgramRequest, files: list[int]) -> None:
        """Run the child; never return."""
        name = request.name if isinstance(request, ProgramRequest) else request.source.name
        _control_process(_SET_NAME, f"hs-{name}".encode()[:_MAX_NAME])
        status = _EXEC_FAILED
        try:
            output, *others = files
            self._forget_parent(output)
            if isinstance(request, ProgramRequest):
                _execute(request)
            else:
                status = run_forked(request, others)
        except BaseException as error:  # noqa: BLE001 - nothing of the parent may run in the child
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
                logging.shutdown()
            os._exit(status)

    def _forget_parent(self, output: int) -> None:
        """Close what belongs to the fork server, and die with it."""
        parent = os.getppid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _control_process(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel knew
            os._exit(0)
        self._supervisor.close()
        for fd in self._wake:
            os.close(fd)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    def _report(self, report: Report) -> None:
        with contextlib.suppress(OSError):
            self._supervisor.send(encode(report))

    def _reap(self, report: Callable[[Ended], None]) -> None:
        while self._children:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if self._children.pop(pid, None) is not None:
                report(Ended(pid=pid, status=os.waitstatus_to_exitcode(wait_status)))

    def _stop_all(self) -> None:
        """Stop the children after the supervisor is gone."""
        servers = [child for child in self._children.values() if not child.is_program]
        self._stop(servers, SERVERS_STOP_S)
        self._stop(list(self._children.values()), PROGRAMS_STOP_S)

    def _stop(self, children: Iterable[Child], limit_s: float) -> None:
        waiting = {child.pid for child in children}
        for child in children:
            self._signal(child.pid, child.stop_signal)
        deadline = time.monotonic() + limit_s
        while waiting & self._children.keys():
            if time.monotonic() > deadline:
                for pid in waiting & self._children.keys():
                    self._signal(pid, signal.SIGKILL)
            time.sleep(0.02)
            self._reap(lambda _: None)

    def _signal(self, pid: int, number: int) -> None:
        if pid in self._children:
            os.kill(pid, number)


def start_fork_server(others: Iterable[int] = ()) -> tuple[socket.socket, int]:
    """Fork the fork server from this process, which has one thread.

    Return the socket to it and its process ID. `others` are files that it must not keep open.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        its.close()
        return ours, pid
    ours.close()
    for fd in others:
        os.close(fd)
    serve_forks(its)


def start_new_fork_server(lock: int) -> tuple[socket.socket, int]:
    """Start a fork server that imports the program again, as it is installed now."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        for fd in (its.fileno(), lock):
            os.set_inheritable(fd, True)
        command = [sys.executable, "-c", _NEW, str(its.fileno())]
        return ours, os.posix_spawn(sys.executable, command, os.environ)


def serve_forks(supervisor: socket.socket) -> NoReturn:
    """Be the fork server; never return."""
    try:
        os.setsid()
        _control_process(_SET_NAME, b"hs-fork-server")
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"):
            os.environ.pop(name, None)
        give_memory_back()
        ForkServer(supervisor).run()
    finally:
        os._exit(0)


def freeze_memory() -> None:
    """Leave nothing to the garbage collectors of the children, whose writes would copy pages."""
    linecache.clearcache()
    gc.collect()
    gc.freeze()


def _execute(request: ProgramRequest) -> None:
    """Run the program in this process; never return."""
    os.chdir(request.folder)
    if request.user is not None:
        account = pwd.getpwnam(request.user)
        groups = [group.gr_gid for group in grp.getgrall() if request.user in group.gr_mem]
        os.setgroups(groups)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # Changing the user has reset it.
    _control_process(_SET_DEATH_SIGNAL, request.stop_signal)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, min(limit[0], 65536))
    os.execvp(request.command[0], request.command)


def _control_process(option: int, value: int | bytes) -> None:
    """Call prctl, where the system has it."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
