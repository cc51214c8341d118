"""The supervisor: one tree of the processes of a server, from `hs supervise` until its stop.

Start: private Redis and PostgreSQL, then main, which migrates the schema, then the writers of
streams, then the rest; a few at a time. Stop: the processes that serve clients, then main, then the
writers on which they depend, then Redis and PostgreSQL. The listening sockets of all processes
belong to the supervisor, and are open from the start to the stop.
"""

import logging
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import msgspec
import trio

from hs.nursery import systemd
from hs.nursery.process_base import slot_holders
from hs.nursery.supervision.fork_server import start_new_fork_server
from hs.nursery.supervision.forks import Forks, Life, WriteLine
from hs.nursery.supervision.installed_program import installed_program
from hs.nursery.supervision.managed_process import ManagedProcess, end
from hs.nursery.supervision.opened_sockets import OpenedSockets
from hs.nursery.supervision.private_servers import PrivateServer
from hs.nursery.supervision.process_files import ProcessFiles, check_together, load_all
from hs.nursery.supervision.requests import ProcessSource, ServeRequest
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

AT_A_TIME: Final = 4
PROGRAM_STOP_S: Final = 30.0
PROGRAM_PAUSE_S: Final = 0.5  # before a program is started again; doubled after each failure
PROGRAM_LAST_PAUSE_S: Final = 30.0

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class ServerPlan:
    """What to supervise. `find` returns the processes as the files are now."""

    find: Callable[[], Sequence[ProcessFiles]]
    allow_ineffective: tuple[str, ...]
    programs: tuple[PrivateServer, ...] = ()


@attrs.define(eq=False)
class Supervisor:
    """The processes of a server; `lock` is a file that stays open while any of them runs."""

    _plan: ServerPlan
    _sockets: OpenedSockets
    forks: Forks
    _write_line: WriteLine
    _lock: int
    processes: dict[str, ManagedProcess] = attrs.field(factory=dict, init=False)
    stop_requested: trio.Event = attrs.field(factory=trio.Event, init=False)
    stopped: trio.Event = attrs.field(factory=trio.Event, init=False)
    _files: dict[str, ProcessFiles] = attrs.field(factory=dict, init=False)
    _settings: dict[str, Settings] = attrs.field(factory=dict, init=False)
    _gone: Sequence[str] = attrs.field(default=(), init=False)
    # By any configuration since the start: present processes may have an earlier one.
    _slot_holders: frozenset[str] = attrs.field(default=frozenset(), init=False)
    _program: frozenset[tuple[str, int]] = attrs.field(factory=installed_program, init=False)
    _programs: dict[str, Life] = attrs.field(factory=dict, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _fork_servers: trio.Nursery | None = attrs.field(default=None, init=False)
    _restarting: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def load(self) -> None:
        """Read the configuration of all processes and open their sockets. Raises: SettingsError."""
        files = {process.name: process for process in self._plan.find()}
        settings = load_all(list(files.values()), self._plan.allow_ineffective)
        check_together(settings)
        # Processes that run, and are not configured any more, have theirs until they are stopped.
        gone = [name for name in self.processes if name not in files]
        files |= {name: self._files[name] for name in gone}
        settings |= {name: self._settings[name] for name in gone}
        self._sockets.open_all(settings, gone)
        self._files, self._settings, self._gone = files, settings, gone
        self._slot_holders |= slot_holders(settings[MAIN].workers)

    async def run(self) -> None:
        """Start everything, run until a stop is requested, and stop everything.

        Raises: ProcessGivenUp, SettingsError, ForkServerGone; in groups.
        """
        # A failure of anything else leaves the fork servers, which stopping needs.
        async with trio.open_nursery() as self._fork_servers:
            await self._fork_servers.start(self.forks.run)
            try:
                await self._run_until_stopped()
            finally:
                systemd.notify(systemd.STOPPING)
                with trio.CancelScope(shield=True):
                    await self._stop_all()
                self.stopped.set()
            self._fork_servers.cancel_scope.cancel()

    async def _run_until_stopped(self) -> None:
        async with trio.open_nursery() as self._nursery:
            with trio.CancelScope() as starting:
                self._nursery.start_soon(_cancel_after, self.stop_requested, starting)
                await self._start_all()
            if not starting.cancelled_caught:
                log.info("all %d processes are ready", len(self.processes))
                systemd.notify(systemd.READY)
                await self.stop_requested.wait()
            self._nursery.cancel_scope.cancel()

    async def _start_all(self) -> None:
        await self._prepare(self.forks, list(self._files))
        assert self._nursery is not None
        for program in self._plan.programs:
            await self._start_program(program)
            self._nursery.start_soon(self._keep_program, program)
        for stage in start_stages(self._settings):
            await _each(stage, self._start)

    async def _start_program(self, program: PrivateServer) -> None:
        self._programs[program.request.name] = await program.start(self.forks)

    async def _keep_program(self, program: PrivateServer) -> None:
        """Start a program again whenever it has ended, until cancelled."""
        name = program.request.name
        while True:
            await self._programs[name].ended.wait()
            log.error("%s ended, %s, starting it again", name, self._programs[name].cause())
            pause_s = PROGRAM_PAUSE_S
            while self._programs[name].has_ended:
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, PROGRAM_LAST_PAUSE_S)
                try:
                    await self._start_program(program)
                except SettingsError as error:
                    log.error("%s does not start: %s", name, error)

    async def _start(self, name: str) -> None:
        process = self.processes[name] = ManagedProcess(name, self._fork)
        await process.start()
        assert self._nursery is not None
        self._nursery.start_soon(process.run)

    async def _fork(self, name: str) -> Life:
        sockets = self._sockets.of(name)
        request = ServeRequest(source=self._source(self._files[name]), addresses=list(sockets))
        return await self.forks.serve(request, list(sockets.values()))

    def main_source(self) -> ProcessSource:
        """Return the configuration of the main process, with absolute paths."""
        source = self._source(self._files[MAIN])
        return msgspec.structs.replace(
            source, files=[str(Path(path).absolute()) for path in source.files]
        )

    def _source(self, process: ProcessFiles) -> ProcessSource:
        return ProcessSource(
            name=process.name,
            files=[str(path) for path in process.files],
            overlay=dict(process.overlay),
            allow_ineffective=list(self._plan.allow_ineffective),
        )

    async def _prepare(self, forks: Forks, names: Sequence[str]) -> None:
        """Let a fork server build processes. Raises: SettingsError."""
        problems = await forks.prepare([self._source(self._files[name]) for name in names])
        if problems:
            raise SettingsError(problems)

    async def _stop_all(self) -> None:
        self._sockets.close()
        for stage in stop_stages(self._settings):
            running = [name for name in stage if name in self.processes]
            await _each(running, lambda name: self.processes[name].stop(), at_a_time=len(running))
        for life in reversed(self._programs.values()):
            number = signal.SIGINT if life.name == "postgres" else signal.SIGTERM
            await end(life, number, PROGRAM_STOP_S)
        self._sockets.remove_files()

    async def reload(self) -> None:
        """Pass SIGHUP on: log files are reopened and certificates read again."""
        for process in self.processes.values():
            await process.signal(signal.SIGHUP)

    async def restart(self, names: Sequence[str], tell: Callable[[str], Awaitable[None]]) -> None:
        """Replace processes one after the other, all of them if none is named.

        The files are read again. The new processes come from a new fork server, which imports the
        program as it is installed now; if that has not changed, those that are named come from the
        present one. If none is named, those that the files do not name any more are stopped; else
        only those of them whose addresses others get.

        Raises: SettingsError, before anything was stopped; ProcessGivenUp.
        """
        async with self._restarting:
            self.load()
            _check_not_removed(names, self._gone)
            if names and installed_program() == self._program:
                await self._prepare(self.forks, names)
            else:
                await self._renew_fork_server()
            known = set(self._gone)
            changing = set(names or self._settings) - known
            replaced = self._sockets.users_of(changing) & known
            gone = replaced if names else known
            # Writers give their slots to others while these still know their addresses. The socket
            # of a process whose address a new one has stays open meanwhile.
            first = replaced | (gone & self._slot_holders)
            for name in sorted(first):
                await self._remove(name, tell)
            for name in restart_order(self._settings, self.processes):
                if name not in changing:
                    continue
                began = trio.current_time()
                if name in self.processes:
                    await self.processes[name].hand_over()
                else:
                    await self._start(name)
                await tell(f"{name} restarted in {trio.current_time() - began:.1f} s")
            for name in sorted(gone - first):
                await self._remove(name, tell)

    async def _remove(self, name: str, tell: Callable[[str], Awaitable[None]]) -> None:
        await self.processes.pop(name).stop()
        del self._files[name], self._settings[name]
        self._sockets.open_all(self._settings)
        await tell(f"{name} stopped")

    async def _renew_fork_server(self) -> None:
        program = installed_program()
        new = Forks(*start_new_fork_server(self._lock), self._write_line)
        assert self._fork_servers is not None
        await self._fork_servers.start(new.run)
        try:
            await self._prepare(new, [name for name in self._files if name not in self._gone])
        except SettingsError:
            self._fork_servers.start_soon(new.retire)
            raise
        old, self.forks, self._program = self.forks, new, program
        self._fork_servers.start_soon(old.retire)


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _each(
    names: Sequence[str], act: Callable[[str], Awaitable[None]], at_a_time: int = AT_A_TIME
) -> None:
    limit = trio.CapacityLimiter(max(at_a_time, 1))

    async def act_in_turn(name: str) -> None:
        async with limit:
            await act(name)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(act_in_turn, name)


def start_stages(all_settings: Mapping[str, Settings]) -> list[list[str]]:
    """Return the names in the order of their start: main, writers of streams, the rest."""
    writers = _writers(all_settings)
    rest = [name for name in all_settings if name != MAIN and name not in writers]
    return [[MAIN], writers, rest]


def _check_not_removed(names: Collection[str], gone: Collection[str]) -> None:
    """Raise SettingsError if processes are to be restarted that the files do not name any more."""
    problems = [
        Problem(
            key=name,
            message="no file names this process any more",
            remedy="stop it with `hs restart --rolling`",
        )
        for name in names
        if name in gone
    ]
    if problems:
        raise SettingsError(problems)


def restart_order(all_settings: Mapping[str, Settings], running: Collection[str]) -> list[str]:
    """Return the names in the order of a rolling restart.

    main migrates the schema. New processes are there before others call them, and these know the
    addresses of new writers of events before the present ones give them slots.
    """
    main, writers, rest = start_stages(all_settings)
    new = [name for name in (*writers, *rest) if name not in running]
    return [*main, *new, *(name for name in (*rest, *writers) if name not in new)]


def stop_stages(all_settings: Mapping[str, Settings]) -> list[list[str]]:
    """Return the names in the order of their stop: those that call others before these."""
    main, writers, rest = start_stages(all_settings)
    return [rest, main, writers]


def _writers(all_settings: Mapping[str, Settings]) -> list[str]:
    shared = all_settings.get(MAIN)
    if shared is None:
        return []
    named = {name for names in shared.workers.writers.values() for name in names}
    return [name for name in all_settings if name != MAIN and name in named]
