"""Hostile clients of a running process, and what the process has open."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import attrs

from tests.support.servers.processes import ServerProcess

LIMIT_S = 60.0


@attrs.frozen
class ProcessUse:
    """Open file descriptors, and resident memory in bytes, of a process."""

    descriptors: int
    resident_bytes: int


def use_of(process: ServerProcess) -> ProcessUse:
    """Return what a process uses at present."""
    assert process.process is not None
    folder = f"/proc/{process.process.pid}"
    with open(f"{folder}/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return ProcessUse(len(os.listdir(f"{folder}/fd")), pages * os.sysconf("SC_PAGE_SIZE"))


def connect(process: ServerProcess, limit_s: float = LIMIT_S) -> socket.socket:
    """Open a connection to a process."""
    return socket.create_connection(("127.0.0.1", process.port), limit_s)


@contextmanager
def connections(process: ServerProcess, count: int) -> Iterator[list[socket.socket]]:
    """Open connections for the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(process)) for _ in range(count)]


def send_ignoring_errors(sock: socket.socket, payload: bytes) -> None:
    """Send as much as the process accepts."""
    with suppress(OSError):
        sock.sendall(payload)


def read_until_closed(sock: socket.socket) -> bytes:
    """Return everything that the process sends before it closes the connection."""
    received = b""
    with suppress(ConnectionResetError, BrokenPipeError):
        while part := sock.recv(65536):
            received += part
    return received


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Wait for a condition of another process. Raises: TimeoutError."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def request(sock: socket.socket, target: str, *headers: str) -> bytes:
    """Send a GET request and return the response with its head, which must have a length."""
    lines = [f"GET {target} HTTP/1.1", "Host: a", *headers, "", ""]
    sock.sendall("\r\n".join(lines).encode("ascii"))
    received = b""
    while b"\r\n\r\n" not in received:
        received += _receive(sock)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += _receive(sock)
    return head + b"\r\n\r\n" + body


def _receive(sock: socket.socket) -> bytes:
    part = sock.recv(65536)
    assert part, "the server closed the connection"
    return part
