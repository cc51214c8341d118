"""What administrators and service managers do to a running process, by its command line."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hs.nursery.signals import KILLED_STATUS
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, ServerProcess, make_cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.process
SOON_S = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One process on SQLite, not started, which writes its number and notifies."""
    pid_file = {"pid_file": str(tmp_path / "hs.pid")}
    cluster = make_cluster("T0", tmp_path, None, None, pid_file)
    yield cluster
    cluster.kill_all()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(process: ServerProcess) -> int:
    """Wait for the end of a process that was told to end."""
    assert process.process is not None
    status = process.process.wait(SOON_S)
    assert process.process.stderr is not None
    process.process.stderr.close()
    process.process = None
    return status


def send(process: ServerProcess, number: signal.Signals) -> None:
    assert process.process is not None
    process.process.send_signal(number)


def begin_request(port: int) -> socket.socket:
    """Send the head of a request and keep its body back."""
    connection = socket.create_connection(("127.0.0.1", port), SOON_S)
    connection.sendall(
        b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: hs.test\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    return connection


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SOON_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_process_notifies_and_ends_when_asked(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, pid_file = cluster.processes["main"], tmp_path / "hs.pid"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SOON_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        main.start()
        assert main.process is not None
        assert manager.recv(100) == b"READY=1"
        assert pid_file.read_text() == f"{main.process.pid}\n"

        assert main.stop() == 0

        assert manager.recv(100) == b"STOPPING=1"
        assert not pid_file.exists()


def test_log_files_are_opened_anew(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    main.start()
    rotated = main.log.with_suffix(".1")
    main.log.rename(rotated)

    send(main, signal.SIGHUP)

    until(lambda: "log files reopened" in main.tail())
    send(main, signal.SIGINT)
    assert ended(main) == 0
    assert "draining" in main.tail()
    assert "draining" not in rotated.read_text()


def test_a_second_process_with_the_same_name_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    main = cluster.processes["main"]
    main.start()
    second = ServerProcess("second", main.port, main.configs, tmp_path / "second.log")

    with pytest.raises(RuntimeError, match="another process runs under this name"):
        second.start()

    assert ended(second) == 1
    assert (tmp_path / "hs.pid").exists()
    assert main.stop() == 0


def test_a_killed_process_is_replaced_at_once(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    main.start()
    main.kill()

    main.start()

    assert main.stop() == 0


def test_the_first_signal_drains_and_the_second_ends_at_once(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    main.start()
    with begin_request(main.port) as patient:
        send(main, signal.SIGTERM)
        until(lambda: is_refused(main.port))
        assert main.process is not None
        assert main.process.poll() is None

        patient.sendall(b"{}")
        assert patient.recv(1000).startswith(b"HTTP/1.1 ")
    assert ended(main) == 0

    main.start()
    with begin_request(main.port):
        send(main, signal.SIGTERM)
        until(lambda: is_refused(main.port))
        send(main, signal.SIGTERM)
        assert ended(main) == KILLED_STATUS


@pytest.mark.postgres
@pytest.mark.redis
def test_a_worker_waits_for_the_schema_and_may_be_stopped_meanwhile(
    tmp_path: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    cluster = make_cluster("T2", tmp_path, postgres_server, redis_server, {})
    main, worker = cluster.processes["main"], cluster.processes["sync1"]
    try:
        worker.begin()
        until(lambda: "waiting for the main process to bring the schema" in worker.tail())
        assert worker.stop() == 0

        worker.begin()
        main.start()
        worker.wait_ready()
        cluster.stop()
    finally:
        cluster.kill_all()
