"""A small HTTP/1.1 client for RPC: a pool of connections over TCP, TLS or Unix sockets.

Rules:

- A request that was sent may have been executed, whatever happens to the connection afterwards.
  It is repeated until the caller's timeout, with the same call key, so that the server executes
  it once.
- As long as no connection was established, nothing was executed. Then the client gives up after
  CONNECT_S, unless the instance announced that it is restarting.
- An idle connection that the server has closed is not used: the request would be lost in it.
- A connection is returned to the pool only after a complete exchange; cancellation closes it.
"""

import select
import ssl
from collections.abc import Mapping
from typing import Any

import attrs
import h11
import trio

from hs.lib.default_tls import default_tls
from hs.repl.ownership import Location
from hs.repl.rpc_client import InstanceUnreachable

MAX_IDLE = 32  # per instance
MAX_OPEN = 256  # per instance; further calls wait
IDLE_S = 30.0  # shorter than the listener's keep-alive
CONNECT_S = 4.0  # to wait for an instance that is not running
RESTART_S = 30.0  # to wait for an instance that announced its stop, counted from then
FIRST_PAUSE_S = 0.02
LAST_PAUSE_S = 1.0
MAX_REPLY_BYTES = 128 * 1024 * 1024
CHUNK = 65536

BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError)


@attrs.define(eq=False)
class _Connection:
    stream: trio.abc.Stream
    state: h11.Connection
    idle_since: float = 0.0

    async def exchange(
        self, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes]:
        head = h11.Request(
            method="POST",
            target=path,
            headers=[("host", "replication"), ("content-length", str(len(body))), *headers.items()],
        )
        sent = [self.state.send(head), self.state.send(h11.Data(body))]
        sent.append(self.state.send(h11.EndOfMessage()))
        await self.stream.send_all(b"".join(part for part in sent if part))
        return await self._receive()

    async def _receive(self) -> tuple[int, bytes]:
        status, parts, size = 0, [], 0
        while True:
            event: Any = self.state.next_event()
            if event is h11.NEED_DATA:
                self.state.receive_data(bytes(await self.stream.receive_some(CHUNK)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > MAX_REPLY_BYTES:
                    raise trio.BrokenResourceError("the reply is too large")
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return status, b"".join(parts)
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("closed before the reply")

    def is_closed_by_peer(self) -> bool:
        """Return whether the other side has closed an idle connection."""
        transport = self.stream
        while isinstance(transport, trio.SSLStream):
            transport = transport.transport_stream
        assert isinstance(transport, trio.SocketStream)
        # On an idle connection nothing but its end can be readable.
        poll = select.poll()
        poll.register(transport.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def try_reuse(self) -> bool:
        """Prepare for the next request; return False if the connection cannot have one."""
        if self.state.our_state is h11.DONE and self.state.their_state is h11.DONE:
            self.state.start_next_cycle()
            return True
        return False


@attrs.define(eq=False)
class _Pool:
    idle: list[_Connection] = attrs.Factory(list)
    slots: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(MAX_OPEN))
    restarting_until: float = 0.0

    def is_restarting(self) -> bool:
        return trio.current_time() < self.restarting_until


@attrs.define(eq=False)
class PooledSender:
    """The pools of connections to other instances."""

    _locations: Mapping[str, Location]
    _ssl_context: ssl.SSLContext | None = None
    _pools: dict[str, _Pool] = attrs.Factory(dict)

    async def post(
        self, instance: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        """Post to an instance, retrying after broken connections, and return (status, body).

        Raises: InstanceUnreachable after `timeout_s`, or earlier; see the rules above.
        """
        location = self._locations.get(instance)
        if location is None:
            raise InstanceUnreachable("it is not in the instance map")
        pool = self._pools.setdefault(instance, _Pool())
        cause = "no connection in time"
        pause_s = FIRST_PAUSE_S
        with trio.move_on_after(timeout_s) as scope:
            deadline, was_sent = scope.deadline, False
            async with pool.slots:
                connect_deadline = min(deadline, trio.current_time() + CONNECT_S)
                while True:
                    may_retry = was_sent or pool.is_restarting()
                    scope.deadline = deadline if may_retry else connect_deadline
                    connection = await _take_idle(pool)
                    is_new = connection is None
                    try:
                        connection = connection or await self._connect(location)
                        was_sent, scope.deadline = True, deadline
                        return await _use(pool, connection, path, headers, body)
                    except BROKEN as error:
                        cause = str(error) or str(error.__cause__ or type(error).__name__)
                    if is_new:  # an idle connection may have been closed just now: retry at once
                        await trio.sleep(pause_s)
                        pause_s = min(pause_s * 2, LAST_PAUSE_S)
        raise InstanceUnreachable(cause)

    def expect_restart(self, instance: str) -> None:
        """Note that an instance stops as intended, and most likely starts again."""
        pool = self._pools.setdefault(instance, _Pool())
        pool.restarting_until = trio.current_time() + RESTART_S

    async def aclose(self) -> None:
        """Close the idle connections."""
        for pool in self._pools.values():
            while pool.idle:
                await trio.aclose_forcefully(pool.idle.pop().stream)

    async def _connect(self, location: Location) -> _Connection:
        stream: trio.SocketStream
        if location.path is not None:
            stream = await trio.open_unix_socket(location.path)
        else:
            stream = await trio.open_tcp_stream(location.host, location.port)
        if not location.tls:
            return _Connection(stream, h11.Connection(h11.CLIENT))
        context = self._ssl_context or default_tls()
        encrypted = trio.SSLStream(
            stream, context, server_hostname=location.host, https_compatible=True
        )
        await _shake_hands(encrypted)
        return _Connection(encrypted, h11.Connection(h11.CLIENT))


async def _shake_hands(stream: "trio.SSLStream[trio.SocketStream]") -> None:
    # Here and not with the first request, so that an untrusted server gets none.
    try:
        await stream.do_handshake()
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
        raise


async def _use(
    pool: _Pool, connection: _Connection, path: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, bytes]:
    is_pooled = False
    try:
        reply = await connection.exchange(path, headers, body)
        pool.restarting_until = 0.0
        if connection.try_reuse() and len(pool.idle) < MAX_IDLE:
            connection.idle_since = trio.current_time()
            pool.idle.append(connection)
            is_pooled = True
        return reply
    finally:
        if not is_pooled:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(connection.stream)


async def _take_idle(pool: _Pool) -> _Connection | None:
    if not pool.idle:
        return None
    youngest = pool.idle.pop()
    # The last one is the youngest. If it is too old or closed, then so are the others.
    is_old = trio.current_time() - youngest.idle_since >= IDLE_S
    if not is_old and not youngest.is_closed_by_peer():
        return youngest
    stale, pool.idle = [*pool.idle, youngest], []
    with trio.CancelScope(shield=True):
        for connection in stale:
            await trio.aclose_forcefully(connection.stream)
    return None
