"""Taking connections from the listeners, and at the end all that already wait there.

A listening socket that is closed resets the connections in its queue, although their clients
believe themselves connected; so whoever leaves takes them first.
"""

import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from hs.apis.web.listeners import Bound

logger = logging.getLogger(__name__)

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Serve = Callable[[Stream], Awaitable[None]]
_NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE_S: Final = 0.1
_SMALLEST_BACKLOG: Final = 0


async def accept_for_ever(one: Bound, serve: Serve, connections: trio.Nursery) -> None:
    """Serve every connection that comes, until cancelled; the socket stays open."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(one.sock))
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            logger.error("No connection can be accepted just now: %s", error)
            await trio.sleep(_NO_ROOM_PAUSE_S)
        else:
            connections.start_soon(serve, _wrapped(stream, one.tls))


def accept_the_last(one: Bound, serve: Serve, connections: trio.Nursery) -> None:
    """Serve what waits in a listener's queue, then close it."""
    try:
        # Whoever comes now is not answered at all and tries again, instead of being reset.
        one.sock.listen(_SMALLEST_BACKLOG)
        while (stream := _accept_nowait(one.sock)) is not None:
            connections.start_soon(serve, _wrapped(stream, one.tls))
    finally:
        one.sock.close()


def _accept_nowait(listener: socket.socket) -> trio.SocketStream | None:
    while True:
        try:
            accepted, _ = listener.accept()
        except (ConnectionAbortedError, InterruptedError):
            continue
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                logger.warning("Connections that waited were left: %s", error)
            return None
        accepted.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def _wrapped(stream: trio.SocketStream, tls: ssl.SSLContext | None) -> Stream:
    if tls is None:
        return stream
    return trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
