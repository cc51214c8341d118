"""Accepting connections, including those still queued when the drain begins.

Closing a listening socket resets the connections in its accept queue, although their clients
consider them established. A draining process therefore accepts and answers all of them before it
closes the socket.

Meanwhile, unless the parent keeps the socket open, `listen(0)` shrinks the queue. The kernel then
ignores attempts to connect, and the client retries until it reaches the next process or fails
cleanly, instead of being reset after it has sent a request. One connection can still slip in
between the last accept and the close, and is reset; this cannot be prevented.

Running out of file descriptors or memory does not end the server: it logs an error (once a minute),
pauses and retries, while clients wait in the queue.
"""

import errno
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from hs.apis.web.listeners import BoundListener

logger = logging.getLogger(__name__)

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Serve = Callable[[Stream], Awaitable[None]]
_RESOURCE_ERRORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RESOURCE_ERROR_PAUSE_S: Final = 0.1
_LOG_PAUSE_S: Final = 60.0
_SMALLEST_BACKLOG: Final = 0


async def accept_connections(bound: BoundListener, serve: Serve, connections: trio.Nursery) -> None:
    """Serve every new connection until cancelled; leaves the listening socket open."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.sock))
    logged_at = -math.inf
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in _RESOURCE_ERRORS:
                raise
            if trio.current_time() - logged_at >= _LOG_PAUSE_S:
                logged_at = trio.current_time()
                logger.error(
                    "could not accept connections at %s, retrying: %s", bound.address, error
                )
            await trio.sleep(_RESOURCE_ERROR_PAUSE_S)
        else:
            connections.start_soon(serve, _with_tls(stream, bound.tls))


def accept_queued_connections(
    bound: BoundListener, serve: Serve, connections: trio.Nursery
) -> None:
    """Serve all connections in a listener's accept queue, then close the listener.

    The queue of an inherited socket keeps its size, for the next process.
    """
    try:
        if not bound.is_inherited:
            bound.sock.listen(_SMALLEST_BACKLOG)
        while (stream := _accept_nowait(bound.sock)) is not None:
            connections.start_soon(serve, _with_tls(stream, bound.tls))
    finally:
        bound.sock.close()


def _accept_nowait(listener: socket.socket) -> trio.SocketStream | None:
    """Return the next queued connection; None if there is none, or after a logged error."""
    while True:
        try:
            accepted, _ = listener.accept()
        except (ConnectionAbortedError, InterruptedError):
            continue
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                logger.warning("could not accept queued connections, dropping them: %s", error)
            return None
        accepted.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def _with_tls(stream: trio.SocketStream, tls: ssl.SSLContext | None) -> Stream:
    if tls is None:
        return stream
    return trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
