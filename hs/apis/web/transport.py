"""Reading from and writing to the three kinds of streams: plain socket, TLS, any trio stream.

Reads return b"" once the client is gone, whatever the reason; writes raise ClientDisconnected.
"""

import os
import select
import socket
import ssl
from typing import Protocol

import trio

from hs.apis.web.http_request import ClientDisconnected

MAX_READ = 65536


class Transport(Protocol):
    """What a connection needs of the stream below it."""

    @property
    def fd(self) -> int | None:
        """File descriptor of the socket on which a disconnect can be watched, if there is one."""
        ...

    async def read(self) -> bytes:
        """Wait for bytes and return up to MAX_READ of them; b"" at the end."""
        ...

    def write_nowait(self, payload: bytes) -> int:
        """Send what is possible without waiting; return how much. Raises: ClientDisconnected."""
        ...

    async def write(self, payload: bytes | memoryview) -> None:
        """Send everything. Raises: ClientDisconnected."""
        ...

    async def linger(self) -> None:
        """Close the sending side, then discard input until the client closes.

        Closing with unread input would reset the connection, and the client could lose the
        response.
        """
        ...


def is_readable(transport: Transport) -> bool:
    """Return whether a read of the socket would return at once, with bytes or the end."""
    if transport.fd is None:
        return False
    poll = select.poll()
    poll.register(transport.fd, select.POLLIN)
    return bool(poll.poll(0))


class SocketTransport:
    """A plain socket, used directly: 34 µs per request less than through the trio stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()

    @property
    def fd(self) -> int | None:
        """File descriptor of the socket."""
        return self._fd

    async def read(self) -> bytes:
        """Wait for bytes and return them; b"" at the end."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self._fd)
                return os.read(self._fd, MAX_READ)
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, trio.ClosedResourceError):
                return b""

    def write_nowait(self, payload: bytes) -> int:
        """Send what the socket accepts at once; return how much that is."""
        try:
            return os.write(self._fd, payload)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise ClientDisconnected from error

    async def write(self, payload: bytes | memoryview) -> None:
        """Send everything."""
        try:
            await self._stream.send_all(payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientDisconnected from error

    async def linger(self) -> None:
        """Close the sending side, then discard input until the client closes."""
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return
        while await self.read():
            pass


class StreamTransport:
    """Any trio stream, in particular TLS; `lower` is the socket below TLS."""

    def __init__(self, stream: trio.abc.Stream, lower: trio.SocketStream | None = None) -> None:
        self._stream = stream
        self._lower = lower

    @property
    def fd(self) -> int | None:
        """File descriptor of the socket below TLS."""
        return None if self._lower is None else self._lower.socket.fileno()

    async def read(self) -> bytes:
        """Wait for bytes and return them; b"" at the end."""
        try:
            return bytes(await self._stream.receive_some(MAX_READ))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            return b""

    def write_nowait(self, payload: bytes) -> int:
        """Send nothing: such a stream may always have to wait."""
        return 0

    async def write(self, payload: bytes | memoryview) -> None:
        """Send everything; TLS keeps a copy of it meanwhile."""
        try:
            await self._stream.send_all(payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            raise ClientDisconnected from error

    async def linger(self) -> None:
        """Close the socket below TLS for sending, since TLS has no half-close; discard input."""
        if self._lower is None:
            return
        lower = SocketTransport(self._lower)
        await lower.linger()
