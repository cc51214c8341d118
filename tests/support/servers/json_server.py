"""HTTP servers in threads that answer JSON, for fake servers that hs sends requests to."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Answers requests with the JSON that a subclass returns, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes) -> tuple[int, object]:
        """Return the status and content of the response to the present request."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        status, content = self.answer(body)
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that break because a client was killed."""


@contextmanager
def running_json_server(
    handler: type[JsonHandler], port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve requests on a port of this machine, by default a free one; yield the base URL."""
    server = _Server(("127.0.0.1", port), handler)
    if tls is not None:
        # The handshake is made in the thread of the connection.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
