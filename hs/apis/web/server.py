"""Serving the application: listeners, connections, their reaper, and the way out.

HTTP/1.1 is our own; HTTP/2, by prior knowledge or chosen in TLS, is handed to hypercorn. Whatever
goes wrong with a connection ends that connection and nothing else.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from hs.apis.web.accept_queue import Stream, accept_for_ever, accept_the_last
from hs.apis.web.app import STATE_KEY, Application, ListenerView
from hs.apis.web.disconnects import HAS_EPOLL, Hangups
from hs.apis.web.http1 import Http1Connection
from hs.apis.web.http1_limits import HttpBounds
from hs.apis.web.http1_writer import date_line
from hs.apis.web.listeners import Bound, ListenerSpec, bind_all
from hs.apis.web.transport import SocketTransport, StreamTransport, Transport

logger = logging.getLogger(__name__)

_CLOSE_S = 1.0


class Server:
    """The connections of one process."""

    def __init__(self, app: Application, bounds: HttpBounds) -> None:
        self.app = app
        self.bounds = bounds
        self.now = trio.current_time()
        self.date = date_line()
        self.hangups = Hangups() if HAS_EPOLL else None
        self.lifespan_state: dict[str, Any] = {}
        self.config = _hypercorn_config(bounds)
        self.context = WorkerContext(None)
        self.wrapped = ASGIWrapper(app)
        self._connections: set[Http1Connection] = set()
        self._open = 0

    @property
    def is_draining(self) -> bool:
        """Tell whether connections should end after their response."""
        return self.app.drain.is_draining

    async def reap(self) -> None:
        """Cancel connections whose peers are too slow; keeps the time and the Date header."""
        while True:
            self.now = trio.current_time()
            self.date = date_line()
            for connection in tuple(self._connections):
                if connection.deadline < self.now:
                    connection.scope.cancel()
            await trio.sleep(self.bounds.tick_s)

    async def close_idle(self) -> None:
        """End every connection that only waits for its next request."""
        await self.context.terminated.set()
        for connection in tuple(self._connections):
            connection.leave()

    async def serve(self, view: ListenerView, stream: Stream) -> None:
        """Serve one connection and close it."""
        if self._open >= self.bounds.connections:
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        self.app.observer.connections += 1
        try:
            await self._converse(view, stream)
        except (Exception, BaseExceptionGroup) as error:
            if isinstance(error, BaseExceptionGroup) and error.split(Exception)[1] is not None:
                raise
            logger.info("A connection was dropped: %r", error)
        finally:
            self._open -= 1
            self.app.observer.connections -= 1
            with trio.move_on_after(_CLOSE_S, shield=True):
                await _close(stream)

    async def _converse(self, view: ListenerView, stream: Stream) -> None:
        state = {**self.lifespan_state, STATE_KEY: view}
        lower = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        transport: Transport
        if isinstance(stream, trio.SocketStream):
            transport = SocketTransport(stream)
        else:
            with trio.move_on_after(self.bounds.handshake_s) as handshake:
                await stream.do_handshake()
            if handshake.cancelled_caught:
                return
            if stream.selected_alpn_protocol() == "h2":
                await self._hand_over(state, stream, b"")
                return
            transport = StreamTransport(stream, lower)
        template = _scope_template(lower, "http" if stream is lower else "https", state)
        http2 = await self.serve_http1(transport, template)
        if http2 is not None:
            await self._hand_over(state, stream, http2)

    async def serve_http1(self, transport: Transport, template: dict[str, Any]) -> bytes | None:
        """Speak HTTP/1.1; give the first bytes of who speaks HTTP/2 instead."""
        connection = Http1Connection(self.app, self, transport, template)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
        return connection.http2

    async def _hand_over(self, state: dict[str, Any], stream: Stream, first: bytes) -> None:
        """Let hypercorn speak HTTP/2."""
        handed: Any = HandedOver(stream, first, self.bounds)
        server: Any = TCPServer(self.wrapped, self.config, self.context, state, handed)
        await server.run()


class HandedOver:
    """A stream for hypercorn: first gives again what was read from it, and ends with slow peers.

    Hypercorn waits for them without end, and shields that from cancellation.
    """

    def __init__(self, stream: Stream, first: bytes, bounds: HttpBounds) -> None:
        self._stream = stream
        self._first = first
        self._bounds = bounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive, from what was read before as long as there is some; b"" after a long silence."""
        if self._first:
            await trio.lowlevel.checkpoint()
            first, self._first = self._first, b""
            return first
        with trio.move_on_after(self._bounds.quiet_s):
            return await self._stream.receive_some(max_bytes)
        return b""

    async def send_all(self, payload: bytes) -> None:
        """Send everything. Raises: trio.BrokenResourceError when the peer does not read."""
        bounds = self._bounds
        with trio.move_on_after(bounds.write_grace_s + len(payload) / bounds.write_bytes_per_s):
            await self._stream.send_all(payload)
            return
        raise trio.BrokenResourceError("The peer does not read")


async def _close(stream: Stream) -> None:
    try:
        await stream.aclose()
    except (trio.BrokenResourceError, trio.BusyResourceError):
        await trio.aclose_forcefully(stream)


def _scope_template(lower: trio.SocketStream, scheme: str, state: dict[str, Any]) -> dict[str, Any]:
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
    """Give host and port; a UNIX socket has none."""
    return (name[0], name[1]) if isinstance(name, tuple) else None


def _hypercorn_config(bounds: HttpBounds) -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = bounds.keep_alive_s
    config.h11_max_incomplete_size = bounds.head_bytes
    config.h2_max_header_list_size = bounds.head_bytes
    config.startup_timeout = config.shutdown_timeout = bounds.drain_grace_s
    return config


async def serve_listeners(
    app: Application,
    specs: Sequence[ListenerSpec],
    bounds: HttpBounds | None = None,
    *,
    task_status: trio.TaskStatus[list[Bound]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `app.drain` begins, then let requests end within the grace period.

    Reports what was bound. Raises: OSError, when a listener cannot be opened.
    """
    server = Server(app, bounds or HttpBounds())
    lifespan = Lifespan(server.wrapped, server.config, server.lifespan_state)
    async with trio.open_nursery() as upkeep:
        await upkeep.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        upkeep.start_soon(server.reap)
        upkeep.start_soon(app.observer.lines.run)
        if server.hangups is not None:
            upkeep.start_soon(server.hangups.run)
        bound = bind_all(specs)
        try:
            async with trio.open_nursery() as connections:
                await _accept_until_drain(server, bound, connections, task_status)
                await server.close_idle()
                connections.cancel_scope.deadline = (
                    trio.current_time() + server.bounds.drain_grace_s
                )
        finally:
            for one in bound:
                one.forget_path()
        await lifespan.wait_for_shutdown()
        upkeep.cancel_scope.cancel()


async def _accept_until_drain(
    server: Server,
    bound: list[Bound],
    connections: trio.Nursery,
    task_status: trio.TaskStatus[list[Bound]],
) -> None:
    views = [server.app.view(one.spec.resources, one.spec.x_forwarded) for one in bound]
    try:
        async with trio.open_nursery() as accepting:
            for one, view in zip(bound, views, strict=True):
                serve = partial(server.serve, view)
                accepting.start_soon(accept_for_ever, one, serve, connections)
                offer = ", ".join(sorted(view.resources))
                logger.info("Listening on %s for %s", one.address, offer)
            task_status.started(bound)
            await server.app.drain.started.wait()
            accepting.cancel_scope.cancel()
        for one, view in zip(bound, views, strict=True):
            accept_the_last(one, partial(server.serve, view), connections)
    finally:
        for one in bound:
            one.sock.close()
