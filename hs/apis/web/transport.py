"""The three ways bytes come and go: a plain socket, TLS over one, and any other trio stream.

All reads give `b""` when the peer is gone in whatever way; writes raise ClientGone.
"""

import os
import select
import socket
import ssl
from typing import Protocol

import trio

from hs.apis.web.http_request import ClientGone

MAX_READ = 65536


class Transport(Protocol):
    """What a connection needs of the stream below it."""

    @property
    def fd(self) -> int | None:
        """Give the socket whose hang-up can be watched, if there is one."""
        ...

    async def read(self) -> bytes:
        """Give what arrived, waiting for something; b"" at the end."""
        ...

    async def write(self, payload: bytes) -> None:
        """Send everything. Raises: ClientGone."""
        ...

    async def linger(self) -> None:
        """End our side and swallow what still comes, so that the peer can read our last words."""
        ...


def has_arrived(transport: Transport) -> bool:
    """Tell whether something can be read of a socket at once, its end included."""
    if transport.fd is None:
        return False
    poll = select.poll()
    poll.register(transport.fd, select.POLLIN)
    return bool(poll.poll(0))


class SocketTransport:
    """A plain socket, read and written directly: 34 µs less than the stream for each request."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()

    @property
    def fd(self) -> int | None:
        """Give the socket."""
        return self._fd

    async def read(self) -> bytes:
        """Give what arrived."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self._fd)
                return os.read(self._fd, MAX_READ)
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, trio.ClosedResourceError):
                return b""

    async def write(self, payload: bytes) -> None:
        """Send everything, at once if the socket takes it."""
        try:
            sent = os.write(self._fd, payload)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            raise ClientGone from error
        if sent < len(payload):
            try:
                await self._stream.send_all(memoryview(payload)[sent:])
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ClientGone from error

    async def linger(self) -> None:
        """End our side and swallow the rest."""
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return
        while await self.read():
            pass


class StreamTransport:
    """Any trio stream, TLS among them."""

    def __init__(self, stream: trio.abc.Stream, lower: trio.SocketStream | None = None) -> None:
        self._stream = stream
        self._lower = lower

    @property
    def fd(self) -> int | None:
        """Give the socket under TLS."""
        return None if self._lower is None else self._lower.socket.fileno()

    async def read(self) -> bytes:
        """Give what arrived."""
        try:
            return bytes(await self._stream.receive_some(MAX_READ))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            return b""

    async def write(self, payload: bytes) -> None:
        """Send everything."""
        try:
            await self._stream.send_all(payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            raise ClientGone from error

    async def linger(self) -> None:
        """Swallow the rest; TLS is ended below itself, for it has no half-closing."""
        if self._lower is None:
            return
        lower = SocketTransport(self._lower)
        await lower.linger()
