"""The HTTP server: listeners, connections, the reaper of slow clients, and the drain.

Only HTTP/1.1 is served (http1.py). A client that begins with HTTP/2 is told to use HTTP/1.1. Of
hypercorn, the lifespan of the ASGI application is used. The application can be served by hypercorn
as well, but only this server has the limits below.

Rules:

- An error in a connection ends only that connection. Cancellation and interrupts propagate.
- Closing a connection takes at most _CLOSE_S and is shielded from cancellation: a TLS client that
  does not respond cannot delay the end of the process.
- At most `limits.connections` are open. A further one ends an old one that only waits for a TLS
  handshake, for a request, or else for the rest of a body. If there is none, it is closed without
  a response, which would need the memory that the limit protects; so is one of a source that has
  too many (connection_counts.py).
- One reaper task checks the deadlines of all HTTP/1.1 connections every `reap_interval_s` and
  cancels connections past their deadline. It also updates the clock and the Date header that
  connections read, so their time has that resolution. While no connection speaks HTTP it waits, so
  that a process without clients is not woken; the next connection updates the clock.

The drain, in this order:

1. Stop accepting connections.
2. Accept the queued connections (accept_queue.py) and close the listening sockets.
3. Close idle connections. Busy ones close after their response.
4. After `drain_grace_s`, cancel the remaining connections.
5. Shut down Quart, then the reaper, the disconnect watcher and the log writer, which connections
   need until they end.

Step 3 misses a connection whose task was started but has not run yet. Such a connection notices
the drain itself before its first read.
"""

import logging
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan

from hs.apis.web.accept_queue import Stream, accept_connections, accept_queued_connections
from hs.apis.web.app import Application
from hs.apis.web.buffers import BufferBudget
from hs.apis.web.client_address import TrustedProxies, normalized_address
from hs.apis.web.connection_counts import ConnectionCounts
from hs.apis.web.disconnects import HAS_EPOLL, DisconnectWatcher
from hs.apis.web.http1 import Http1Connection
from hs.apis.web.http1_limits import HttpLimits
from hs.apis.web.http1_writer import date_header
from hs.apis.web.inherited_sockets import NO_SOCKETS, InheritedSockets
from hs.apis.web.listener_view import STATE_KEY, ListenerView
from hs.apis.web.listeners import BoundListener, ListenerSpec, bind_listeners
from hs.apis.web.transport import SocketTransport, StreamTransport, Transport

logger = logging.getLogger(__name__)

_CLOSE_S = 1.0
_MAX_IDLE_SEARCH = 2000


class Server:
    """The connections of one process."""

    def __init__(
        self, app: Application, limits: HttpLimits, proxies: TrustedProxies | None = None
    ) -> None:
        self.app = app
        self.limits = limits
        self.proxies = proxies or TrustedProxies()
        self._read_clock()
        self._reaper_needed: trio.Event | None = None  # while the reaper waits
        self.disconnect_watcher = DisconnectWatcher() if HAS_EPOLL else None
        self.lifespan_state: dict[str, Any] = {}
        self.budget = app.request_log.buffers = BufferBudget(limits.buffered_bytes)
        self.counts = ConnectionCounts(limits.connections_per_source, limits.unlimited_networks)
        # In the order in which they were opened; the values mean nothing.
        self._connections: dict[Http1Connection, None] = {}
        self._handshakes: dict[trio.CancelScope, None] = {}
        self._open = 0

    @property
    def is_draining(self) -> bool:
        """Whether connections should close after their response."""
        return self.app.drain.is_draining

    async def reap(self) -> None:
        """Cancel connections past their deadline; update `now` and `date`. Runs until cancelled."""
        while True:
            self._read_clock()
            for connection in tuple(self._connections):
                if connection.deadline < self.now:
                    connection.scope.cancel()
            if all(connection.is_upgraded for connection in self._connections):
                self._reaper_needed = trio.Event()
                await self._reaper_needed.wait()
            await trio.sleep(self.limits.reap_interval_s)

    def _read_clock(self) -> None:
        self.now = trio.current_time()
        self.date = date_header()

    def close_idle(self) -> None:
        """Close every connection that only waits for its next request."""
        for connection in tuple(self._connections):
            connection.close_if_idle()

    async def serve(self, view: ListenerView, stream: Stream) -> None:
        """Serve one connection and close it."""
        if self._open >= self.limits.connections and not self._make_room():
            await trio.aclose_forcefully(stream)
            return
        source: str | None = None
        try:
            source = self._source_of(view, stream)
            is_welcome = source is None or self.counts.enter(source)
        except OSError:
            is_welcome = False  # The client is already gone.
        if not is_welcome:
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        self.app.request_log.connections += 1
        try:
            await self._serve_stream(view, stream, source)
        except (Exception, BaseExceptionGroup) as error:
            if isinstance(error, BaseExceptionGroup) and error.split(Exception)[1] is not None:
                raise
            logger.info("connection failed, closing it: %r", error)
        finally:
            if source is not None:
                self.counts.leave(source)
            self._open -= 1
            self.app.request_log.connections -= 1
            with trio.move_on_after(_CLOSE_S, shield=True):
                await _close(stream)

    def _source_of(self, view: ListenerView, stream: Stream) -> str | None:
        """Return the source for which a connection counts; None if it does not count."""
        peer = _peer(_lower(stream))
        if peer is None or (view.proxies is not None and view.proxies.trusts(peer)):
            return None
        return self.counts.counted_source(normalized_address(peer))

    def _make_room(self) -> bool:
        """End an old connection that only waits for its client; return whether one was found."""
        for handshake in self._handshakes:
            if not handshake.cancel_called:
                handshake.cancel()
                return True
        oldest = tuple(islice(self._connections, _MAX_IDLE_SEARCH))
        return any(connection.make_room_if_idle() for connection in oldest) or any(
            connection.make_room_if_slow() for connection in oldest
        )

    async def _serve_stream(self, view: ListenerView, stream: Stream, source: str | None) -> None:
        state = {**self.lifespan_state, STATE_KEY: view}
        lower = _lower(stream)
        transport: Transport
        if isinstance(stream, trio.SocketStream):
            transport = SocketTransport(stream)
        else:
            if not await self._shake_hands(stream):
                return
            transport = StreamTransport(stream, lower)
        template = _scope_template(lower, "http" if stream is lower else "https", state)
        await self.serve_http1(transport, template, source)

    async def _shake_hands(self, stream: trio.SSLStream[trio.SocketStream]) -> bool:
        with trio.move_on_after(self.limits.handshake_s) as handshake:
            self._handshakes[handshake] = None
            try:
                await stream.do_handshake()
            finally:
                del self._handshakes[handshake]
        return not handshake.cancelled_caught

    async def serve_http1(
        self, transport: Transport, scope_template: dict[str, Any], source: str | None = None
    ) -> None:
        """Serve HTTP/1.1 until the connection ends; never closes the stream."""
        if self._reaper_needed is not None:
            self._read_clock()
            self._reaper_needed.set()
            self._reaper_needed = None
        connection = Http1Connection(self.app, self, transport, scope_template, source)
        self._connections[connection] = None
        try:
            await connection.run()
        finally:
            self._connections.pop(connection, None)


def _lower(stream: Stream) -> trio.SocketStream:
    return stream if isinstance(stream, trio.SocketStream) else stream.transport_stream


def _peer(lower: trio.SocketStream) -> str | None:
    """Return the address of a peer; None on a UNIX socket."""
    address = _address(lower.socket.getpeername())
    return None if address is None else address[0]


async def _close(stream: Stream) -> None:
    try:
        await stream.aclose()
    except (trio.BrokenResourceError, trio.BusyResourceError):
        await trio.aclose_forcefully(stream)


def _scope_template(lower: trio.SocketStream, scheme: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the ASGI scope that all requests of a connection share."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": scheme,
        "root_path": "",
        "client": _address(lower.socket.getpeername()),
        "server": _address(lower.socket.getsockname()),
        "state": state,
        "extensions": {},
    }


def _address(name: Any) -> tuple[str, int] | None:
    """Return host and port of a socket name; None for a UNIX socket."""
    return (name[0], name[1]) if isinstance(name, tuple) else None


def _lifespan_config(limits: HttpLimits) -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.startup_timeout = config.shutdown_timeout = limits.drain_grace_s
    return config


async def serve_listeners(
    app: Application,
    specs: Sequence[ListenerSpec],
    limits: HttpLimits | None = None,
    proxies: TrustedProxies | None = None,
    inherited: InheritedSockets = NO_SOCKETS,
    *,
    task_status: trio.TaskStatus[list[BoundListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `app.drain` begins, then let requests finish within the grace period.

    Sockets in `inherited` were opened by the parent process, which keeps them open. Reports the
    open listeners by `task_status`. Raises: OSError if one cannot be opened.
    """
    server = Server(app, limits or HttpLimits(), proxies)
    lifespan = Lifespan(ASGIWrapper(app), _lifespan_config(server.limits), server.lifespan_state)
    async with trio.open_nursery() as upkeep:
        await upkeep.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        upkeep.start_soon(server.reap)
        upkeep.start_soon(app.request_log.lines.run)
        if server.disconnect_watcher is not None:
            upkeep.start_soon(server.disconnect_watcher.run)
        listeners = bind_listeners(specs, inherited)
        try:
            async with trio.open_nursery() as connections:
                await _accept_until_drain(server, listeners, connections, task_status)
                server.close_idle()
                connections.cancel_scope.deadline = (
                    trio.current_time() + server.limits.drain_grace_s
                )
        finally:
            for bound in listeners:
                bound.remove_socket_file()
        await lifespan.wait_for_shutdown()
        upkeep.cancel_scope.cancel()


async def _accept_until_drain(
    server: Server,
    listeners: list[BoundListener],
    connections: trio.Nursery,
    task_status: trio.TaskStatus[list[BoundListener]],
) -> None:
    views = [
        server.app.view_for(
            bound.spec.resources,
            server.proxies if bound.spec.x_forwarded else None,
            server.counts,
        )
        for bound in listeners
    ]
    try:
        async with trio.open_nursery() as accepting:
            for bound, view in zip(listeners, views, strict=True):
                serve = partial(server.serve, view)
                accepting.start_soon(accept_connections, bound, serve, connections)
                resources = ", ".join(sorted(view.resources))
                logger.info("listening on %s, serving %s", bound.address, resources)
            task_status.started(listeners)
            await server.app.drain.started.wait()
            accepting.cancel_scope.cancel()
        for bound, view in zip(listeners, views, strict=True):
            accept_queued_connections(bound, partial(server.serve, view), connections)
    finally:
        for bound in listeners:
            bound.sock.close()
