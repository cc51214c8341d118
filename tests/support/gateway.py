"""A push gateway: a real HTTP server in a thread, which keeps what it is told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

PATH = "/_matrix/push/v1/notify"
WAIT_S = 90.0
LOOK_S = 0.02


@attrs.define
class Gateway:
    """What was told, in order; `answers` are statuses to give first, instead of 200."""

    url: str = ""
    told: list[dict[str, Any]] = attrs.Factory(list)
    asked: int = 0
    answers: list[int] = attrs.Factory(list)
    rejected: list[str] = attrs.Factory(list)

    def take(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Keep a notification, or fail as one was told to; give status and answer."""
        self.asked += 1
        if self.answers and (status := self.answers.pop(0)) != 200:
            return status, {}
        self.told.append(json.loads(body)["notification"])
        return 200, {"rejected": self.rejected}

    def events(self, pushkey: str | None = None) -> list[str]:
        """List the events told of, each as often as it was."""
        return [
            one["event_id"]
            for one in list(self.told)
            if "event_id" in one and pushkey in (None, one["devices"][0]["pushkey"])
        ]

    def badges(self) -> list[int]:
        """List the numbers that were told without an event."""
        return [one["counts"]["unread"] for one in list(self.told) if "event_id" not in one]

    def doubled(self) -> dict[tuple[str, str], int]:
        """Give what was told more than once: (event, pushkey)."""
        keys = [
            (one["event_id"], one["devices"][0]["pushkey"])
            for one in list(self.told)
            if "event_id" in one
        ]
        return {key: count for key, count in Counter(keys).items() if count > 1}

    def of_event(self, event_id: str) -> dict[str, Any]:
        """Wait until an event was told, and give the notification."""
        self.wait_until(lambda: event_id in self.events(), f"{event_id} to be pushed")
        return deepcopy(next(one for one in self.told if one.get("event_id") == event_id))

    def wait_until(self, holds: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
        """Wait, blocking, until something holds; for threads beside the event loop."""
        deadline = time.monotonic() + wait_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited for {what}; told were {self.told[-3:]}")
            time.sleep(LOOK_S)


@contextmanager
def running_gateway() -> Iterator[Gateway]:
    """Run a gateway on a free port of this machine."""
    gateway = Gateway()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, answer = (404, {}) if self.path != PATH else gateway.take(body)
            encoded = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that were killed are no news."""

    server = Server(("127.0.0.1", 0), Handler)
    gateway.url = f"http://127.0.0.1:{server.server_port}{PATH}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
