"""HTTPS requests whose address, certificate and Host header are chosen separately.

A server with delegation is reached at another name and port than its own, presents the certificate
of one of these names, and is told a name in the Host header. Redirects are not followed.

This client is our own because an event is sent to each server of its room in a request of its own:
a library costs several times as much. Its parts: requests and responses (`http1`), connections
(`connecting`, `connection_pool`) and their bytes (`wires`).
"""

import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import attrs
import trio

from hs.lib.http_client import (
    HttpFault,
    HttpResponse,
    HttpTimedOut,
    HttpUnreachable,
    ResponseTooLarge,
)
from hs.lib.http_client.addresses import AddressRules
from hs.lib.http_client.connecting import RESOLVER_THREADS, Connecting, ConnectionTarget, Resolve
from hs.lib.http_client.connection_pool import Connection, ConnectionPool, TargetConnections
from hs.lib.http_client.http1 import ResponseHead, ResponseParser, encode_request
from hs.lib.http_client.targets import NO_PROXIES, Proxies

CONNECTIONS: Final = 100
CONNECTIONS_PER_TARGET: Final = 20
LARGE_REQUEST_BYTES: Final = 1 << 16
"""Larger requests may not fit into the buffers of the sockets."""

STEP_BYTES: Final = 1 << 18  # of decompressed content; half a millisecond

_MAY_REPEAT: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
_PLAIN: Final = frozenset(("", "identity"))
_GZIP: Final = frozenset(("gzip", "x-gzip"))


@attrs.frozen(kw_only=True)
class DirectedRequest:
    """A request to `host` (a name or an address, without brackets) and `port`.

    `certificate_name` is the name or address that the certificate must be valid for. `tls` is the
    context to verify it with.
    """

    method: str
    host: str
    port: int
    certificate_name: str
    uri: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    max_bytes: int
    tls: ssl.SSLContext

    @property
    def target(self) -> ConnectionTarget:
        """Where the connection for the request goes."""
        return ConnectionTarget(self.host, self.port, self.certificate_name, self.tls)

    @property
    def authority(self) -> str:
        """Host and port, for messages."""
        return self.target.authority


@attrs.frozen(eq=False)
class OpenResponse:
    """A response whose body is received while `parts` are iterated."""

    status: int
    headers: Mapping[str, str]
    parts: AsyncIterator[bytes]


class DirectedHttpClient:
    """Sends directed requests; its connections are closed by `run` or `close`."""

    def __init__(
        self,
        rules: AddressRules,
        proxies: Proxies = NO_PROXIES,
        resolve: Resolve | None = None,
        *,
        connections: int = CONNECTIONS,
        connections_per_target: int = CONNECTIONS_PER_TARGET,
        resolver_threads: int = RESOLVER_THREADS,
    ) -> None:
        threads = trio.CapacityLimiter(resolver_threads)
        connecting = Connecting(rules, proxies, resolve, threads=threads)
        self._pool = ConnectionPool(connecting.open, connections, connections_per_target)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close idle connections, until cancelled."""
        task_status.started()
        await self._pool.run()

    def close(self) -> None:
        """Close all idle connections; a later request opens new ones."""
        self._pool.close()

    async def send(self, request: DirectedRequest) -> HttpResponse:
        """Send a request and return the response, whatever its status.

        The caller bounds the time. Cancellation closes the connection.
        Raises: HttpFault; HttpNotConnected, if the request cannot have been received.
        """
        exchange = await self._begin(request, _encode(request, "gzip"))
        try:
            head = exchange.head
            decompressor = _decompressor(head)
            _check_size(exchange.parser.content_length or len(exchange.content), request)
            if exchange.parser.is_complete and decompressor is None:
                body = exchange.content
            else:
                body = await _read(exchange, request, decompressor)
        finally:
            exchange.end()
        return HttpResponse(head.status, head.headers, body, request.uri)

    @asynccontextmanager
    async def stream(self, request: DirectedRequest) -> AsyncIterator[OpenResponse]:
        """Send a request and open the response without reading its body. Raises: HttpFault.

        `timeout_s` bounds the time until the end of the body. Compressed bodies are refused.
        """
        content = _encode(request, "identity")
        deadline_s = trio.current_time() + request.timeout_s
        exchange: _Exchange | None = None
        with trio.move_on_at(deadline_s):
            exchange = await self._begin(request, content)
        if exchange is None:
            raise _timed_out(request)
        try:
            head = exchange.head
            if head.headers.get("content-encoding", "").lower() not in _PLAIN:
                raise HttpUnreachable(f"{request.authority}: the response is compressed")
            async with aclosing(_parts(exchange, request, deadline_s)) as parts:
                yield OpenResponse(head.status, head.headers, parts)
        finally:
            exchange.end()

    async def _begin(self, request: DirectedRequest, content: bytes) -> "_Exchange":
        """Send a request and receive the head of the response. Raises: HttpFault."""
        pool = self._pool
        target = request.target
        place = await pool.enter(target)
        try:
            connection = await pool.connection(target, place)
            while True:
                exchange = _Exchange(pool, place, connection, ResponseParser(request.method))
                try:
                    await exchange.begin(content)
                    return exchange
                except (OSError, HttpUnreachable) as error:
                    connection.wire.close()
                    if not (exchange.was_stale and request.method in _MAY_REPEAT):
                        raise _fault_of(error, request) from None
                except BaseException:
                    connection.wire.close()
                    raise
                # The server closed the connection before it knew of the request.
                connection = await pool.new_connection(target)
        except BaseException:
            pool.leave(target, place)
            raise


@attrs.define(eq=False)
class _Exchange:
    """A request that was sent, and its response as far as it was received.

    `content` is the part of the body that came with the head.
    """

    _pool: ConnectionPool
    _place: TargetConnections
    _connection: Connection
    parser: ResponseParser
    content: bytes = b""

    @property
    def head(self) -> ResponseHead:
        """The head of the response."""
        assert self.parser.head is not None
        return self.parser.head

    @property
    def was_stale(self) -> bool:
        """Whether a connection that had been idle failed before anything was received."""
        return not (self._connection.is_fresh or self.parser.has_begun)

    async def begin(self, content: bytes) -> None:
        """Send the request and receive the head. Raises: OSError, HttpFault."""
        if len(content) > LARGE_REQUEST_BYTES:
            await self._send_beside_receiving(content)
            return
        failure: OSError | None = None
        try:
            await self._connection.wire.send(content)
        except OSError as error:
            failure = error  # the server may have responded without reading the request
        try:
            await self._receive_head()
        except (OSError, HttpUnreachable) as error:
            raise failure or error from None
        if failure is not None:
            self.parser.is_persistent = False

    async def _send_beside_receiving(self, content: bytes) -> None:
        is_sent, failure = False, None

        async def send() -> None:
            nonlocal is_sent
            with suppress(OSError):  # the other task notices it as well
                await self._connection.wire.send(content)
                is_sent = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                await self._receive_head()
            except (OSError, HttpUnreachable) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not is_sent:
            self.parser.is_persistent = False

    async def _receive_head(self) -> None:
        while self.parser.head is None:
            self.content = await self._receive()

    async def receive(self, request: DirectedRequest) -> bytes:
        """Return the next part of the body. Raises: HttpFault."""
        try:
            return await self._receive()
        except (OSError, HttpUnreachable) as error:
            raise _fault_of(error, request) from None

    async def _receive(self) -> bytes:
        received = await self._connection.wire.receive()
        if received:
            return self.parser.feed(received)
        self.parser.feed_end()
        return b""

    def end(self) -> None:
        """Keep the connection if the response was received to its end; close it otherwise."""
        if self.parser.is_complete and self.parser.is_persistent:
            self._pool.keep(self._connection, self._place)
        else:
            self._connection.wire.close()
        self._pool.leave(self._connection.target, self._place)


async def _parts(
    exchange: _Exchange, request: DirectedRequest, deadline_s: float
) -> AsyncGenerator[bytes, None]:
    part: bytes | None = exchange.content
    received = 0
    while True:
        if part is None:
            raise _timed_out(request)
        received += len(part)
        _check_size(received, request)
        if part:
            yield part
        if exchange.parser.is_complete:
            return
        part = None
        with trio.move_on_at(deadline_s):
            part = await exchange.receive(request)


async def _read(
    exchange: _Exchange, request: DirectedRequest, decompressor: "zlib._Decompress | None"
) -> bytes:
    """Read a body; decompress it in steps, so that a decompression bomb is cut off in time."""
    part, received, body = exchange.content, 0, bytearray()
    while True:
        received += len(part)
        _check_size(received, request)
        if decompressor is None:
            body += part
        else:
            await _decompress(decompressor, part, body, request)
        if exchange.parser.is_complete:
            break
        part = await exchange.receive(request)
    if decompressor is not None and received and not decompressor.eof:
        raise HttpUnreachable("the compressed response is truncated")
    return bytes(body)


async def _decompress(
    decompressor: "zlib._Decompress", part: bytes, body: bytearray, request: DirectedRequest
) -> None:
    while not decompressor.eof:
        try:
            step = decompressor.decompress(part, STEP_BYTES)
        except zlib.error as error:
            raise HttpUnreachable(f"{request.authority}: {error}") from None
        body += step
        _check_size(len(body), request)
        part = decompressor.unconsumed_tail
        if len(step) < STEP_BYTES:
            return
        await trio.lowlevel.checkpoint()


def _decompressor(head: ResponseHead) -> "zlib._Decompress | None":
    encoding = head.headers.get("content-encoding", "").lower()
    if encoding in _PLAIN:
        return None
    if encoding not in _GZIP:
        raise HttpUnreachable(f"unsupported content-encoding {encoding!r:.20} in the response")
    return zlib.decompressobj(wbits=31)


def _encode(request: DirectedRequest, encoding: str) -> bytes:
    headers = {**request.headers, "accept-encoding": encoding}
    return encode_request(request.method, request.uri, headers, request.body)


def _check_size(size: int, request: DirectedRequest) -> None:
    if size > request.max_bytes:
        raise ResponseTooLarge(f"the response is larger than {request.max_bytes} bytes")


def _fault_of(error: OSError | HttpUnreachable, request: DirectedRequest) -> HttpUnreachable:
    reason = error.message if isinstance(error, HttpFault) else str(error) or type(error).__name__
    return HttpUnreachable(f"{request.authority}: {reason:.200}")


def _timed_out(request: DirectedRequest) -> HttpFault:
    return HttpTimedOut(f"{request.authority}: timed out after {request.timeout_s:g} s")
