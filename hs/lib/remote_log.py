"""A logging handler that sends lines to a TCP server, as structured logs are collected.

Records are formatted by the caller and sent by a thread, so that a slow or absent server delays
nothing. While the server is away, the oldest lines of a full buffer are dropped.
"""

import logging
import socket
import threading
from collections import deque

CONNECT_S = 5.0
SEND_S = 10.0
RETRY_S = 2.0
CLOSE_S = 1.0


class RemoteHandler(logging.Handler):
    """Sends a line per record to a TCP server; takes the arguments of Synapse's RemoteHandler."""

    def __init__(self, host: str, port: int, maximum_buffer: int = 1000) -> None:
        super().__init__()
        self._address = (host, int(port))
        self._lines: deque[bytes] = deque(maxlen=int(maximum_buffer))
        self._is_new = threading.Event()
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record to the buffer. Called with the handler's lock."""
        try:
            self._lines.append(self.format(record).encode() + b"\n")
        except (TypeError, ValueError):
            self.handleError(record)
            return
        if self._thread is None:
            name = "remote log"
            self._thread = threading.Thread(target=self._send_lines, name=name, daemon=True)
            self._thread.start()
        self._is_new.set()

    def close(self) -> None:
        """Send what is in the buffer if the server takes it at once, and stop."""
        self._is_closed.set()
        self._is_new.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        super().close()

    def _send_lines(self) -> None:
        while not (self._is_closed.is_set() and not self._lines):
            try:
                with socket.create_connection(self._address, CONNECT_S) as connection:
                    connection.settimeout(SEND_S)
                    self._send_over(connection)
            except OSError:
                # Nothing is logged about it, because that would be sent by this handler too.
                if self._is_closed.wait(RETRY_S):
                    return

    def _send_over(self, connection: socket.socket) -> None:
        while True:
            self._is_new.clear()
            while self._lines:
                # A line that was not sent whole is sent again over the next connection.
                line = self._lines[0]
                connection.sendall(line)
                if self._lines and self._lines[0] is line:
                    self._lines.popleft()
            if self._is_closed.is_set():
                return
            self._is_new.wait()
