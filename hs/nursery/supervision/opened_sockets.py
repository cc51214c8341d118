"""The listening sockets of all processes, which the supervisor opens and keeps open."""

import socket
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import attrs

from hs.apis.web.inherited_sockets import Address, bound_address
from hs.apis.web.listeners import ListenerSpec, open_socket
from hs.nursery.nursery_tree import listener_specs
from hs.settings.errors import Problem, SettingsError
from hs.settings.settings import Settings


@attrs.define(eq=False)
class OpenedSockets:
    """The sockets by process and address."""

    _of_process: dict[str, dict[Address, socket.socket]] = attrs.field(factory=dict)
    _paths: list[str] = attrs.field(factory=list)

    def open_all(self, all_settings: Mapping[str, Settings], gone: Collection[str] = ()) -> None:
        """Open what is not open yet, close what no process has any more.

        A process gets the socket that one of the `gone` has at its address.

        Raises: SettingsError, with all addresses that cannot be opened; nothing is changed then.
        """
        problems: list[Problem] = []
        opened: dict[str, dict[Address, socket.socket]] = {}
        new: list[socket.socket] = []
        left = {address: sock for name in gone for address, sock in self.of(name).items()}
        for name, settings in all_settings.items():
            mine = opened[name] = {}
            specs = listener_specs(settings)
            for spec in specs:
                known = self.of(name).get(spec.address) or left.get(spec.address)
                try:
                    sock = known or open_socket(spec, specs)
                except OSError as error:
                    problems.append(_problem(settings, spec, error))
                    continue
                if sock is not None:
                    mine[spec.address] = sock
                    new += [] if sock is known else [sock]
        if problems:
            _close(new)
            raise SettingsError(problems)
        kept = {id(sock) for mine in opened.values() for sock in mine.values()}
        dropped = [sock for sock in self._all() if id(sock) not in kept]
        self._paths = [*self._paths, *filter(None, map(_path_of, new))]
        _remove(filter(None, map(_path_of, dropped)))
        _close(dropped)
        self._of_process = opened

    def of(self, name: str) -> dict[Address, socket.socket]:
        """Return the sockets of a process."""
        return self._of_process.get(name, {})

    def users_of(self, names: Iterable[str]) -> set[str]:
        """Return the processes that have a socket of one of these."""
        wanted = {id(sock) for name in names for sock in self.of(name).values()}
        return {
            name
            for name, mine in self._of_process.items()
            if wanted & {id(sock) for sock in mine.values()}
        }

    def close(self) -> None:
        """Close all sockets; the processes still have their copies."""
        _close(self._all())

    def remove_files(self) -> None:
        """Remove the files of UNIX sockets, once all processes have ended."""
        _remove(self._paths)

    def _all(self) -> list[socket.socket]:
        return [sock for mine in self._of_process.values() for sock in mine.values()]


def _path_of(sock: socket.socket) -> str | None:
    return bound_address(sock)[0] if sock.family == socket.AF_UNIX else None


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _problem(settings: Settings, spec: ListenerSpec, error: OSError) -> Problem:
    key = "listeners" if settings.workers.is_main else "worker_listeners"
    found = Problem(
        key=key,
        message=f"{error.strerror or error}: {error.filename or spec.address[0]}",
        remedy="use a free port and an address of this machine, or stop the program that has it",
    )
    return settings.locate(SettingsError([found])).problems[0]
