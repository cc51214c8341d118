"""Byte streams of client connections: a socket, and TLS on top of another stream.

trio's own streams do the same at twice the cost: they pass through the scheduler where nothing has
to be waited for. Here a small request is encrypted and sent without a wait.

All of them raise OSError if the connection breaks. `receive` may run beside `send`, in another
task; no two tasks may do the same.
"""

import contextlib
import os
import socket
import ssl
from typing import Final, Protocol

import attrs
import trio

from hs.lib.fairness.turns import Turns

READ_BYTES: Final = 1 << 16
_SLICE_BYTES: Final = 1 << 18


class Wire(Protocol):
    """A stream of bytes in both directions."""

    async def send(self, content: bytes) -> None:
        """Send bytes. Raises: OSError."""
        ...

    async def receive(self) -> bytes:
        """Return the next bytes; b"" at the end. Raises: OSError."""
        ...

    def is_quiet(self) -> bool:
        """Return whether the server has neither sent anything nor closed the connection."""
        ...

    def close(self) -> None:
        """Close the connection without waiting."""
        ...


@attrs.define(eq=False)
class SocketWire:
    """A connected socket in non-blocking mode."""

    _socket: socket.socket

    async def send(self, content: bytes) -> None:
        """Send bytes; see Wire."""
        try:
            sent = self._socket.send(content)
        except BlockingIOError:
            sent = 0
        if sent < len(content):
            rest = memoryview(content)[sent:]
            while rest:
                await trio.lowlevel.wait_writable(self._socket)
                with contextlib.suppress(BlockingIOError):
                    rest = rest[self._socket.send(rest) :]

    async def receive(self) -> bytes:
        """Return the next bytes; see Wire."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue

    def receive_nowait(self) -> bytes | None:
        """Return the next bytes; b"" at the end; None if nothing has arrived. Raises: OSError."""
        try:
            return self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None

    def send_nowait(self, content: bytes) -> None:
        """Send bytes if they can be sent without a wait. Raises: OSError."""
        with contextlib.suppress(BlockingIOError):
            self._socket.send(content)

    def is_quiet(self) -> bool:
        """Return whether nothing has arrived; see Wire."""
        try:
            return self.receive_nowait() is None
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class _LowerWire(Wire, Protocol):
    """What TLS is spoken over."""

    def receive_nowait(self) -> bytes | None:
        """Return the next bytes; b"" at the end; None if nothing has arrived. Raises: OSError."""
        ...

    def send_nowait(self, content: bytes) -> None:
        """Send bytes if they can be sent without a wait. Raises: OSError."""
        ...


@attrs.define(eq=False)
class TlsWire:
    """TLS over another wire; `handshake` comes first."""

    _lower: _LowerWire
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _tls: ssl.SSLObject
    _is_sending: bool = False

    async def handshake(self, turns: Turns[None]) -> None:
        """Agree on keys, and verify the certificate. Raises: OSError, ValueError.

        Each step computes for up to a millisecond, in a turn of its own.
        """
        while True:
            await turns.take(None)
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive_lower()
            except BaseException:
                # The alert tells the server why its certificate is not accepted.
                with contextlib.suppress(OSError):
                    self._lower.send_nowait(self._outgoing.read())
                raise
            else:
                await self._flush()
                return

    async def send(self, content: bytes) -> None:
        """Send bytes; see Wire."""
        self._is_sending = True  # for ever, if it fails: a record may be incomplete
        if len(content) <= _SLICE_BYTES:
            self._tls.write(content)
            await self._lower.send(self._outgoing.read())
        else:
            for begin in range(0, len(content), _SLICE_BYTES):
                self._tls.write(content[begin : begin + _SLICE_BYTES])
                await self._lower.send(self._outgoing.read())
        self._is_sending = False

    async def receive(self) -> bytes:
        """Return the next bytes; see Wire."""
        while True:
            if not (self._incoming.pending or self._tls.pending()):
                await self._receive_lower()
            content = self._read()
            if content is not None:
                return content
            await self._flush()

    def is_quiet(self) -> bool:
        """Return whether nothing but session tickets has arrived; see Wire."""
        try:
            received = self._lower.receive_nowait()
            if received is None:
                return True
            if received == b"":
                return False
            self._incoming.write(received)
            return self._read() is None and not self._incoming.pending
        except OSError:
            return False

    def receive_nowait(self) -> bytes | None:
        """Return the next bytes; b"" at the end; None if nothing has arrived. Raises: OSError."""
        content = self._read()
        if content is None and (received := self._lower.receive_nowait()) is not None:
            self._feed(received)
            content = self._read()
        return content

    def send_nowait(self, content: bytes) -> None:
        """Send bytes if they can be sent without a wait. Raises: OSError."""
        self._tls.write(content)
        self._lower.send_nowait(self._outgoing.read())

    def close(self) -> None:
        """Say goodbye and close the connection."""
        if not self._is_sending:
            with contextlib.suppress(OSError, ValueError):
                # OpenSSL waits for the goodbye of the server, we do not.
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                self._lower.send_nowait(self._outgoing.read())
        self._lower.close()

    def _read(self) -> bytes | None:
        """Return decrypted bytes; b"" at the end; None if more has to be received."""
        try:
            return self._tls.read(READ_BYTES)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLEOFError:
            return b""  # many servers close connections without the goodbye of TLS

    async def _receive_lower(self) -> None:
        self._feed(await self._lower.receive())

    def _feed(self, received: bytes) -> None:
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        # A task that sends will send this too. In its midst, it would break the stream.
        if self._outgoing.pending and not self._is_sending:
            await self._lower.send(self._outgoing.read())


def tls_over(lower: SocketWire | TlsWire, context: ssl.SSLContext, server_name: str) -> TlsWire:
    """Return TLS over a wire, to be begun by `handshake`. Raises: ValueError, for the name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    return TlsWire(lower, incoming, outgoing, tls)


async def connect_socket(address: str, port: int) -> SocketWire:
    """Connect to an IP address. Raises: OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connecting.connect((address, port))
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connecting)
            code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
        return SocketWire(connecting)
    except BaseException:
        connecting.close()
        raise
