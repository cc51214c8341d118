"""Slow clients take little memory of a process, and are disconnected in time."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.servers.hostile_clients import (
    connect,
    connections,
    read_until_closed,
    request,
    send_ignoring_errors,
    use_of,
    wait_until,
)
from tests.support.servers.processes import ServerProcess, running_cluster

pytestmark = pytest.mark.process

MIB = 1024 * 1024
SPARE = 5
REGISTER = b"POST /_matrix/client/v3/register HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
# Longer than any time that a client gets, on a slow machine.
LIMIT_S = 150.0


@pytest.fixture(scope="module")
def process() -> Iterator[ServerProcess]:
    """A server of one process that limits clients of this machine too."""
    settings = {
        "unlimited_addresses": [],
        "max_connections_per_address": 1100,
        "max_buffered_bytes": "128M",
    }
    with running_cluster("T0", None, None, **settings) as cluster:
        yield cluster.processes["main"]


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(REGISTER % MIB + b"x" * (MIB - 1), id="large bodies"),
        pytest.param(REGISTER % 65_536 + b"x" * 65_000, id="bodies"),
        pytest.param(
            REGISTER.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
            + b"2\r\nxx\r\n" * 32_000,
            id="small chunks",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 60_000, id="heads"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 95 + b"Y: " + b"y" * 60_000,
            id="many headers",
        ),
        pytest.param(
            b"".join(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x:y\r\n" * 99 + b"\r\n" for _ in range(9))
            + REGISTER % 65_536,
            id="pipelined",
        ),
    ],
)
def test_a_thousand_unfinished_requests_take_little_memory(
    payload: bytes, process: ServerProcess
) -> None:
    with connect(process) as client:
        request(client, "/_matrix/client/versions")
    before = use_of(process)

    with connections(process, 1000) as clients:
        for client in clients:
            send_ignoring_errors(client, payload)
        with connect(process) as client:
            answer = request(client, "/_matrix/client/versions")
        held = use_of(process).resident_bytes - before.resident_bytes

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert held < 100 * MIB, f"{held / MIB:.0f} MiB"
    wait_until(lambda: use_of(process).descriptors <= before.descriptors + SPARE)


def test_too_large_anonymous_body_is_rejected_before_it_is_sent(process: ServerProcess) -> None:
    with connect(process) as client:
        client.sendall(REGISTER % 65_537)

        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.long
def test_slow_clients_are_disconnected_in_time(process: ServerProcess) -> None:
    """They send a byte now and then, or read nothing."""
    before = use_of(process).descriptors
    slow = {
        "silent": (connect(process), b""),
        "head": (connect(process), b"GET /hello HTTP/1.1\r\nHost: a\r\nX: "),
        "half a line": (connect(process), b"GE"),
        "body": (connect(process), REGISTER % 1000),
        "chunks": (
            connect(process),
            REGISTER.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked"),
        ),
        "idle": (connect(process), b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n"),
    }
    for sock, beginning in slow.values():
        sock.sendall(beginning)
    reader = reader_that_stops(process)
    ended: dict[str, float] = {}
    began = time.monotonic()

    while len(ended) < len(slow) and time.monotonic() < began + LIMIT_S:
        for name, (sock, _) in slow.items():
            if name not in ended and is_closed(sock, b"" if name in ("silent", "idle") else b"1"):
                ended[name] = time.monotonic() - began
        time.sleep(0.5)

    assert ended.keys() == slow.keys()
    assert ended["silent"] < 40
    assert ended["head"] < 40
    assert ended["body"] < 60
    for sock, _ in slow.values():
        sock.close()
    reader.settimeout(LIMIT_S)
    read_until_closed(reader)
    reader.close()
    wait_until(lambda: use_of(process).descriptors <= before + SPARE)


def reader_that_stops(process: ServerProcess) -> socket.socket:
    """Return a client that asks for much and reads nothing."""
    sock = connect(process)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(2)
    ask = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n"
    try:
        while True:
            sock.sendall(ask * 10)
    except OSError:
        return sock


def is_closed(sock: socket.socket, byte: bytes) -> bool:
    """Send a byte, and return whether the process has closed the connection."""
    sock.settimeout(0.01)
    try:
        if byte:
            sock.sendall(byte)
        while part := sock.recv(65536):
            assert part
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HTTP/1.1\r\nHost", REGISTER % 10 + b"{", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n"],
    ids=["silent", "head", "body", "tls", "http2"],
)
def test_process_with_few_files_goes_on_serving(begun: bytes) -> None:
    with running_cluster("T0", None, None, soft_file_limit=256) as cluster:
        process = cluster.processes["main"]
        before = use_of(process).descriptors

        with connections(process, 600) as clients:
            for client in clients:
                send_ignoring_errors(client, begun)
            for _ in range(5):
                with connect(process) as client:
                    answer = request(client, "/_matrix/client/versions")
                    assert answer.startswith(b"HTTP/1.1 200 ")

        wait_until(lambda: use_of(process).descriptors <= before + SPARE)
        assert "ERROR" not in process.errors()


def test_connections_that_are_reset_leave_nothing(process: ServerProcess) -> None:
    """Each client resets its connection at another point of a request."""
    whole = REGISTER % 20 + b'{"username":"a"}    ' + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(process) as client:
        request(client, "/_matrix/client/versions")
    before = use_of(process)

    for number in range(2000):
        client = connect(process)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        send_ignoring_errors(client, whole[: number % len(whole)])
        client.close()

    wait_until(lambda: use_of(process).descriptors <= before.descriptors + SPARE)
    assert use_of(process).resident_bytes < before.resident_bytes + 20 * MIB
    assert "ERROR" not in process.errors()
