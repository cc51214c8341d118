"""Signals, PID file and service manager notifications of a running process."""

import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hs.nursery.signals import KILLED_STATUS
from tests.support.servers.certificates import make_certificates
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, ServerProcess, free_ports, make_cluster
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process
WAIT_S = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A server of one process with SQLite and a PID file, not yet started."""
    pid_file = {"pid_file": str(tmp_path / "hs.pid")}
    cluster = make_cluster("T0", tmp_path, None, None, pid_file)
    yield cluster
    cluster.kill_all()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_exit(process: ServerProcess) -> int:
    """Wait until a process exits; return its exit status."""
    assert process.process is not None
    status = process.process.wait(WAIT_S)
    assert process.process.stderr is not None
    process.process.stderr.close()
    process.process = None
    return status


def send(process: ServerProcess, number: signal.Signals) -> None:
    assert process.process is not None
    process.process.send_signal(number)


def begin_request(port: int) -> socket.socket:
    """Send the head of a request without its body; return the connection."""
    connection = socket.create_connection(("127.0.0.1", port), WAIT_S)
    connection.sendall(
        b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: hs.test\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    return connection


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), WAIT_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_service_manager_is_notified_of_start_and_stop(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, pid_file = cluster.processes["main"], tmp_path / "hs.pid"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        main.start()
        assert main.process is not None
        assert manager.recv(100) == b"READY=1"
        assert pid_file.read_text() == f"{main.process.pid}\n"

        assert main.stop() == 0

        assert manager.recv(100) == b"STOPPING=1"
        assert not pid_file.exists()


def test_sighup_reopens_log_files(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    main.start()
    rotated = main.log.with_suffix(".1")
    main.log.rename(rotated)

    send(main, signal.SIGHUP)

    wait_until(lambda: "log files reopened" in main.tail())
    send(main, signal.SIGINT)
    assert wait_for_exit(main) == 0
    assert "draining" in main.tail()
    assert "draining" not in rotated.read_text()


def served_certificate(port: int) -> bytes:
    """Return the certificate that a listener presents."""
    return ssl.get_server_certificate(("127.0.0.1", port)).encode()


def test_sighup_reloads_certificates_of_internal_listeners(tmp_path: Path) -> None:
    first = make_certificates(tmp_path)
    public, internal = free_ports(2)
    tls = {"type": "http", "bind_addresses": ["127.0.0.1"], "tls": True}
    listeners = [
        {"port": public, **tls, "resources": [{"names": ["client"]}]},
        {"port": internal, **tls, "resources": [{"names": ["health"]}]},
    ]
    settings = {
        "listeners": listeners,
        "tls_certificate_path": str(first.certificate),
        "tls_private_key_path": str(first.key),
    }
    cluster = make_cluster("T0", tmp_path, None, None, settings)
    try:
        main = cluster.processes["main"]
        main.start()
        before = first.certificate.read_bytes()
        assert [served_certificate(port) for port in (public, internal)] == [before, before]

        # A certificate that does not fit to its key changes nothing.
        first.certificate.write_bytes(first.authority.read_bytes())
        send(main, signal.SIGHUP)
        wait_until(lambda: main.tail().count("could not reload the certificate") == 2)
        assert [served_certificate(port) for port in (public, internal)] == [before, before]

        after = make_certificates(tmp_path).certificate.read_bytes()
        send(main, signal.SIGHUP)

        wait_until(lambda: served_certificate(internal) == after)
        assert served_certificate(public) == after
        assert main.stop() == 0
    finally:
        cluster.kill_all()


def test_second_process_with_same_name_fails_to_start(cluster: Cluster, tmp_path: Path) -> None:
    main = cluster.processes["main"]
    main.start()
    second = ServerProcess("second", main.port, main.configs, tmp_path / "second.log")

    with pytest.raises(RuntimeError, match="another process runs under this name"):
        second.start()

    assert wait_for_exit(second) == 1
    assert (tmp_path / "hs.pid").exists()
    assert main.stop() == 0


def test_killed_process_can_be_restarted_at_once(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    main.start()
    main.kill()

    main.start()

    assert main.stop() == 0


def test_first_signal_drains_and_second_signal_ends_process(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    main.start()
    with begin_request(main.port) as connection:
        send(main, signal.SIGTERM)
        wait_until(lambda: is_refused(main.port))
        assert main.process is not None
        assert main.process.poll() is None

        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 ")
    assert wait_for_exit(main) == 0

    main.start()
    with begin_request(main.port):
        send(main, signal.SIGTERM)
        wait_until(lambda: is_refused(main.port))
        send(main, signal.SIGTERM)
        assert wait_for_exit(main) == KILLED_STATUS


@pytest.mark.postgres
@pytest.mark.redis
def test_worker_waiting_for_schema_can_be_stopped(
    tmp_path: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    cluster = make_cluster("T2", tmp_path, postgres_server, redis_server, {})
    main, worker = cluster.processes["main"], cluster.processes["sync1"]
    try:
        worker.begin()
        wait_until(
            lambda: "waiting for the main process to migrate the database schema" in worker.tail()
        )
        assert worker.stop() == 0

        worker.begin()
        main.start()
        worker.wait_ready()
        cluster.stop()
    finally:
        cluster.kill_all()
