"""A TCP port in front of several processes, as a reverse proxy is: it prefers those that run."""

import random
import select
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CHUNK_BYTES = 65536


@contextmanager
def forwarded(port: int, upstream_ports: Sequence[int]) -> Iterator[None]:
    """Forward each connection to a port to one of the upstream ports that accepts it."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            upstream = _connected(upstream_ports)
            if upstream is not None:
                with upstream:
                    _forward(self.request, upstream)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 100

    with Server(("127.0.0.1", port), Connection) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _connected(ports: Sequence[int]) -> socket.socket | None:
    for port in random.sample(ports, len(ports)):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            continue
    return None


def _forward(near: socket.socket, far: socket.socket) -> None:
    """Copy bytes both ways until either side closes."""
    while True:
        readable, _, _ = select.select([near, far], [], [])
        for source in readable:
            target = far if source is near else near
            try:
                chunk = source.recv(_CHUNK_BYTES)
                if not chunk:
                    return
                target.sendall(chunk)
            except OSError:
                return
