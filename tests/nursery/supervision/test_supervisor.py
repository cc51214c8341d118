"""In which order the supervisor starts, replaces and stops processes, and from which program."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from hs.nursery.supervision.forks import Forks, Life
from hs.nursery.supervision.installed_program import installed_program
from hs.nursery.supervision.managed_process import ManagedProcess
from hs.nursery.supervision.opened_sockets import OpenedSockets
from hs.nursery.supervision.process_files import load_all
from hs.nursery.supervision.server_files import find_processes
from hs.nursery.supervision.shape import generate_server, parse_shape
from hs.nursery.supervision.supervisor import (
    ServerPlan,
    Supervisor,
    restart_order,
    start_stages,
    stop_stages,
)
from hs.settings.documents import read_documents
from hs.settings.settings import Settings
from tests.nursery.supervision.test_shape import BASE


def settings_of(folder: Path, shape: str) -> dict[str, Settings]:
    """Return the settings of the processes of a shape."""
    path = folder / "homeserver.yaml"
    path.write_text(yaml.safe_dump(BASE))
    document = read_documents([path])
    server = generate_server(
        parse_shape(shape), document, lambda name: {"path": str(folder / name)}, 8081
    )
    return load_all(server.processes((path,)), ())


def test_processes_start_after_those_that_they_call_and_stop_before_them(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "sync,receipts,event_persister:2")

    persisters = ["event_persister1", "event_persister2"]
    assert start_stages(settings) == [["main"], ["receipts1", *persisters], ["sync1"]]
    assert stop_stages(settings) == [["sync1"], ["main"], ["receipts1", *persisters]]


def test_all_processes_know_a_new_writer_before_it_gets_slots(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "sync,pusher,event_persister:2")
    running = {"main", "sync1", "event_persister1"}

    order = restart_order(settings, running)

    assert order == ["main", "event_persister2", "pusher1", "sync1", "event_persister1"]


def write_server(folder: Path) -> None:
    """Write the file of a server whose main process has a replication listener."""
    main = {"path": str(folder / "main.sock")}
    replication = {**main, "resources": [{"names": ["replication"]}]}
    shared = {**BASE, "listeners": [replication], "instance_map": {"main": main}}
    (folder / "homeserver.yaml").write_text(yaml.safe_dump(shared))


def write_worker(folder: Path, name: str, address: str) -> Path:
    """Write the file of a worker that listens on a UNIX socket, and return its path."""
    listener = {"path": str(folder / address), "resources": [{"names": ["client"]}]}
    settings = {
        "worker_app": "synapse.app.generic_worker",
        "worker_name": name,
        "worker_listeners": [listener],
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def make_supervisor(folder: Path, sockets: OpenedSockets, unused: socket.socket) -> Supervisor:
    """Return a supervisor of the server whose files are in a folder."""
    plan = ServerPlan(find=lambda: find_processes(folder), allow_ineffective=())
    return Supervisor(plan, sockets, Forks(unused, 0, print), print, 0)


@contextmanager
def running_sync1(
    folder: Path, socket_name: str
) -> Iterator[tuple[Supervisor, OpenedSockets, Path]]:
    """Yield the supervisor of a server with the process sync1, its sockets, and sync1's file."""
    write_server(folder)
    worker = write_worker(folder, "sync1", socket_name)
    sockets = OpenedSockets()
    with socket.socket() as unused:
        supervisor = make_supervisor(folder, sockets, unused)
        supervisor.load()
        supervisor.processes["sync1"] = ManagedProcess("sync1", never_fork)
        yield supervisor, sockets, worker
    sockets.close()


def test_socket_of_a_removed_process_is_kept_while_it_runs(tmp_path: Path) -> None:
    with running_sync1(tmp_path, "sync1.sock") as (supervisor, _, worker):
        worker.unlink()

        supervisor.load()

        assert (tmp_path / "sync1.sock").exists()


def test_new_process_gets_the_socket_of_a_removed_one_with_its_address(tmp_path: Path) -> None:
    with running_sync1(tmp_path, "reader.sock") as (supervisor, sockets, worker):
        before = sockets.of("sync1")
        worker.unlink()
        write_worker(tmp_path, "sync2", "reader.sock")

        supervisor.load()

        assert before == sockets.of("sync1") == sockets.of("sync2")
        assert sockets.users_of(["sync2"]) == {"sync1", "sync2"}


async def never_fork(name: str) -> Life:
    raise AssertionError(name)


def test_upgrade_of_a_package_changes_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    before = installed_program()
    assert installed_program() == before

    (tmp_path / "trio-99.dist-info").mkdir()

    assert installed_program() != before
