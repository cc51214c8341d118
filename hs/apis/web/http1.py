"""One HTTP/1.1 connection: a single task that parses, awaits the application and writes.

Rules:

- Only this task reads and writes the transport. Requests are answered one at a time, in the order
  in which they arrived; pipelined requests wait in the parser, later bytes in the kernel.
- There are no timeouts and no timer task here. Before each wait for the client the task sets
  `deadline`; the server's reaper cancels `scope` once the deadline has passed. While the
  application is computing, the deadline is infinite.
- `scope` is cancelled by the reaper, by close_if_idle(), and by the disconnect watcher while an
  endpoint has asked for it. In each case the connection ends without another response, and run()
  absorbs the cancellation.
- A parser error does not overtake the requests before it. If the error is in the body of the
  current request, the application sees a disconnect when it reads that body, and the error is
  sent as the response unless the application has already started one.
- The connection is reused only if the response is complete and the whole request was read. A
  small unread body is read and discarded. If it is large, of unknown length, or waiting for
  "100 Continue", the response has `connection: close`: the rest is not worth reading, or may never
  be sent.
- After an error, or a response that was sent before the whole request was received, the connection
  lingers: it closes its sending side and discards input for a while, so that the client can read
  the response before the connection is reset.

Races:

- Drain: close_if_idle() checks the socket and cancels with no await in between. A request that has
  arrived by then is answered, with `connection: close`; a client that sends its request later
  sees the connection close and must retry. A client that has connected but not yet sent anything
  gets `drain_head_s`. A connection that close_if_idle() has missed, because its task had not
  started, checks for the drain before each read.
- Disconnect: with epoll, nothing is read while the application is running. Without epoll (tests,
  other systems) a disconnect is noticed by reading ahead. Up to _MAX_READ_AHEAD bytes are kept for
  the next request; after that, a disconnect goes unnoticed until the application has finished.
- The socket is removed from the disconnect watcher before run() returns, because the server then
  closes the socket, and its file descriptor may be reused immediately.
"""

import logging
import math
from typing import Any, Protocol
from urllib.parse import unquote

import trio

from hs.apis.web.buffers import BufferBudget
from hs.apis.web.client_address import LOCAL, normalized_address
from hs.apis.web.disconnects import DisconnectWatcher
from hs.apis.web.exchange import Exchange
from hs.apis.web.http1_limits import HttpLimits
from hs.apis.web.http1_parser import Http1Parser, Http1Request, HttpError
from hs.apis.web.http1_writer import (
    InvalidResponse,
    ResponseHead,
    ResponseWriter,
    error_response_bytes,
)
from hs.apis.web.http_request import ClientDisconnected, HttpRequest
from hs.apis.web.listener_view import STATE_KEY, ListenerView
from hs.apis.web.transport import Transport, is_readable
from hs.core.errors import LimitExceeded

logger = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_DISCONNECT = {"type": "http.disconnect"}
_MAX_READ_AHEAD = 65536
# Larger bodies are not copied to be sent together with their head.
_SEPARATE_BYTES = 64 * 1024
_WRITE_PIECE_BYTES = 256 * 1024


class HttpApplication(Protocol):
    """What responds to requests."""

    async def handle_http(
        self, view: ListenerView, http_request: HttpRequest, exchange: Exchange
    ) -> None:
        """Respond to a request that a listener with this view has received."""
        ...


class ServerContext(Protocol):
    """What a connection reads from its server; `now` and `date` are updated by the reaper."""

    limits: HttpLimits
    now: float
    date: bytes
    disconnect_watcher: DisconnectWatcher | None
    budget: BufferBudget

    @property
    def is_draining(self) -> bool:
        """Whether connections should close after their response."""
        ...


class Http1Connection:
    """One connection and the request that it is answering."""

    __slots__ = (
        "_app",
        "_body_deadline",
        "_body_delivered",
        "_client_ip",
        "_is_new",
        "_is_reading_body",
        "_parser",
        "_peer",
        "_read_ahead",
        "_request",
        "_scope_template",
        "_server",
        "_transport",
        "_view",
        "_writer",
        "buffers",
        "deadline",
        "is_upgraded",
        "scope",
    )

    def __init__(
        self,
        app: HttpApplication,
        server: ServerContext,
        transport: Transport,
        scope_template: dict[str, Any],
        source: str | None = None,
    ) -> None:
        self._app = app
        self._server = server
        self._transport = transport
        self._scope_template = scope_template
        self._view: ListenerView = scope_template["state"][STATE_KEY]
        client = scope_template["client"]
        self._peer: str | None = client[0] if client else None
        self._client_ip = normalized_address(self._peer or LOCAL)
        self._parser = Http1Parser(server.limits)
        self._request: Http1Request | None = None
        self._writer: ResponseWriter | None = None
        self._body_delivered = False
        self._is_new = True
        self._is_reading_body = False
        self._body_deadline = 0.0
        self._read_ahead: list[bytes] = []
        self.deadline = server.now + server.limits.head_s
        self.is_upgraded = False
        self.scope = trio.CancelScope()
        self.buffers = server.budget.hold(source, self.scope.cancel)

    @property
    def is_idle(self) -> bool:
        """Whether the connection only waits for its next request."""
        return self._request is None and self._parser.is_idle

    def close_if_idle(self) -> None:
        """End the connection if it only waits for its next request.

        If that request may have arrived already, or the client has only just connected, the
        connection ends after the response instead.
        """
        if not self.is_idle:
            return
        if self._may_have_request():
            self._shorten_deadline()
        else:
            self.scope.cancel()

    def make_room_if_idle(self) -> bool:
        """End the connection if it waits for a request; return whether it will end."""
        return self._request is None and self._make_room()

    def make_room_if_slow(self) -> bool:
        """End the connection if it waits for a request or its body; return whether it will end."""
        return (self._request is None or self._is_reading_body) and self._make_room()

    def _make_room(self) -> bool:
        if self.scope.cancel_called or is_readable(self._transport):
            return False
        self.scope.cancel()
        return True

    def _may_have_request(self) -> bool:
        return self._is_new or is_readable(self._transport)

    def _shorten_deadline(self) -> None:
        self.deadline = min(self.deadline, self._server.now + self._server.limits.drain_head_s)

    async def run(self) -> None:
        """Serve the connection until it ends; never closes the stream."""
        with self.scope:
            try:
                while (request := await self._next_request()) is not None:
                    if not await self._handle(request):
                        break
                if self._parser.error is not None:
                    await self._send_error(self._parser.error)
            except ClientDisconnected:
                return
            finally:
                self.buffers.release()
                self._forget_socket()

    def _forget_socket(self) -> None:
        fd, watcher = self._transport.fd, self._server.disconnect_watcher
        if fd is not None and watcher is not None:
            watcher.forget(fd)

    async def _next_request(self) -> Http1Request | None:
        """Return the next request once its head is complete; None if the connection must end."""
        parser, server = self._parser, self._server
        while self._read_ahead and parser.is_idle:
            parser.feed(self._read_ahead.pop(0))
        head_deadline = None
        while not parser.requests:
            if parser.error is not None:
                return None
            if not parser.is_idle:
                # Fixed at the first byte of the head, so that sending slowly gains no time.
                head_deadline = head_deadline or server.now + server.limits.head_s
                self.deadline = head_deadline
            elif server.is_draining:
                if not self._may_have_request():
                    return None
                self._shorten_deadline()
            received = await self._transport.read()
            if not received:
                return None
            parser.feed(received)
            del received  # It would be kept until the client sends more.
            try:
                self.buffers.receive(parser.head_bytes)
            except LimitExceeded as error:
                parser.error = HttpError(503, error.message, error.errcode)
        self.buffers.release()
        self.deadline = math.inf
        self._is_new = False
        return parser.requests.popleft()

    async def _handle(self, request: Http1Request) -> bool:
        """Answer one request; return whether the connection can be reused."""
        writer = self._writer = ResponseWriter(request, request.keep_alive)
        self._request = request
        self._body_delivered = False
        self._body_deadline = self._server.now + self._server.limits.body_grace_s
        try:
            await self._app.handle_http(self._view, self._http_request(request), self)
        except ClientDisconnected:
            return False
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 an application error ends only this connection
            await self._handle_app_error(error, writer)
            return False
        finally:
            self._request = self._writer = None
            # What arrived of an unread body would be kept while the connection lingers.
            request.body = bytearray()
            self.buffers.release()
        is_cut_off = self._parser.error is not None and not request.complete
        if not writer.finished or not writer.keep_alive or is_cut_off:
            await self._prepare_close(request, writer)
            return False
        if not request.complete and not await self._discard_body(request):
            return False
        self.deadline = self._server.now + self._server.limits.keep_alive_s
        return True

    async def _prepare_close(self, request: Http1Request, writer: ResponseWriter) -> None:
        if self._parser.error is not None and not writer.has_started:
            return  # run() sends the error as the response.
        self._parser.error = None
        if writer.has_started and not request.complete and not self.is_upgraded:
            await self._linger()

    async def _handle_app_error(self, error: BaseException, writer: ResponseWriter) -> None:
        """Log the error and send a 500 if possible; re-raise what is not an Exception."""
        if isinstance(error, BaseExceptionGroup):
            if error.split(Exception)[1] is not None:
                raise error
            if error.split(ClientDisconnected)[1] is None:
                return
        logger.error("unhandled error in the application, closing the connection", exc_info=error)
        self._parser.error = None
        if not writer.has_started:
            await self._send_error(HttpError(500, "Internal server error"))

    async def _send_error(self, error: HttpError) -> None:
        self._parser.error = None
        await self._write(error_response_bytes(error, self._server.date))
        await self._linger()

    async def _linger(self) -> None:
        self.deadline = self._server.now + self._server.limits.linger_s
        await self._transport.linger()

    async def _discard_body(self, request: Http1Request) -> bool:
        """Discard the rest of the body; return whether its end was reached."""
        while not request.complete:
            if not await self._read_body(request):
                return False
            request.body.clear()
        return True

    def _http_request(self, request: Http1Request) -> HttpRequest:
        http_request = HttpRequest(
            method=request.method,
            raw_path=request.path.decode("ascii"),
            query_string=request.query,
            headers=request.headers,
            receive=self.receive,
            client_ip=self._client_ip,
        )
        http_request.buffers = self.buffers
        http_request.has_arrived = request.complete
        if self._server.disconnect_watcher is not None and self._transport.fd is not None:
            http_request.disconnect_signal = self
        self._view.set_forwarded_client(http_request, self._peer)
        return http_request

    def asgi_scope(self) -> dict[str, Any]:
        """Return the scope of the request that is being answered (ASGI)."""
        request = self._request
        assert request is not None
        scope = self._scope_template.copy()
        path = request.path.decode("ascii")
        scope["http_version"] = request.version
        scope["method"] = request.method
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = request.path
        scope["query_string"] = request.query
        scope["headers"] = request.headers
        return scope

    async def receive(self) -> dict[str, Any]:
        """Return the next part of the body; after the last one, wait for the disconnect (ASGI)."""
        request = self._request
        if request is None:
            return _DISCONNECT
        if self._body_delivered:
            await self._wait_disconnected()
            return _DISCONNECT
        if not request.body and not request.complete:
            if request.expects_continue:
                request.expects_continue = False
                await self._write(_CONTINUE)
            while not request.body and not request.complete:
                if not await self._read_body(request):
                    return _DISCONNECT
        body, request.body = bytes(request.body), bytearray()
        self._body_delivered = request.complete
        return {"type": "http.request", "body": body, "more_body": not request.complete}

    async def _read_body(self, request: Http1Request) -> bool:
        """Read once; return whether the body can still be completed."""
        if self._parser.error is not None:
            return False  # The error arrived together with the head.
        limits = self._server.limits
        self.deadline = self._body_deadline + request.received_bytes / limits.body_bytes_per_s
        self._is_reading_body = True
        received = await self._transport.read()
        self._is_reading_body = False
        self.deadline = math.inf
        self._parser.feed(received)
        return bool(received) and (request.complete or self._parser.error is None)

    async def _wait_disconnected(self) -> None:
        fd, watcher = self._transport.fd, self._server.disconnect_watcher
        if fd is not None and watcher is not None:
            await watcher.wait(fd)
            return
        while sum(map(len, self._read_ahead)) < _MAX_READ_AHEAD:
            received = await self._transport.read()
            if not received:
                return
            self._read_ahead.append(received)
        await trio.sleep_forever()

    async def send(self, message: Any) -> None:
        """Send the head or a part of the body of the response (ASGI)."""
        writer = self._writer
        if writer is None:
            raise InvalidResponse("The response has ended")
        if message["type"] == "http.response.start":
            if self._must_close():
                writer.keep_alive = False
            writer.start(message["status"], message.get("headers", []), self._server.date)
        elif message["type"] == "http.response.body":
            payload = writer.body(message.get("body", b""), message.get("more_body", False))
            if payload:
                await self._write(payload)

    async def respond(self, head: ResponseHead, body: bytes) -> None:
        """Send a whole response."""
        writer = self._writer
        if writer is None:
            raise InvalidResponse("The response has ended")
        if self._must_close():
            writer.keep_alive = False
        full_head = writer.complete_response(head, len(body), self._server.date)
        if writer.omits_body:
            await self._write(full_head)
        elif len(body) < _SEPARATE_BYTES:
            await self._write(full_head + body)
        else:
            await self._write(full_head)
            await self._write(body)

    async def upgrade(self, protocol: str) -> Transport:
        """Switch the connection to another protocol, and return it. It closes after the request.

        Spec: RFC 9110, section 15.2.2.
        """
        writer = self._writer
        if writer is None:
            raise InvalidResponse("The response has ended")
        await self._write(writer.switching_protocols(protocol))
        self.deadline = math.inf
        self.is_upgraded = True
        return self._transport

    def _must_close(self) -> bool:
        """Return whether to close after the response: if draining, or if much body is unread."""
        request = self._request
        if self._server.is_draining:
            return True
        if request is None or request.complete:
            return False
        missing = request.missing_bytes
        return (
            request.expects_continue
            or missing is None
            or missing > self._server.limits.unread_body_bytes
        )

    async def _write(self, payload: bytes) -> None:
        sent = self._transport.write_nowait(payload)
        if sent == len(payload):
            return
        limits = self._server.limits
        previous_deadline = self.deadline
        last_deadline = self._server.now + limits.write_grace_s
        last_deadline += len(payload) / limits.write_bytes_per_s
        view = memoryview(payload)
        self.buffers.send(len(payload))
        # In pieces, so that a client that stops reading a large response is noticed early.
        for start in range(sent, len(view), _WRITE_PIECE_BYTES):
            piece = view[start : start + _WRITE_PIECE_BYTES]
            piece_s = limits.write_grace_s + len(piece) / limits.write_bytes_per_s
            self.deadline = min(self._server.now + piece_s, last_deadline)
            await self._transport.write(piece)
        self.buffers.sent()
        self.deadline = previous_deadline

    def watch_disconnect(self) -> None:
        """Cancel the connection and its handler when the client disconnects, from now on."""
        assert self._server.disconnect_watcher is not None
        assert self._transport.fd is not None
        self._server.disconnect_watcher.watch(self._transport.fd, self.scope)

    def unwatch_disconnect(self) -> None:
        """Stop watching for a disconnect."""
        assert self._server.disconnect_watcher is not None
        assert self._transport.fd is not None
        self._server.disconnect_watcher.unwatch(self._transport.fd)
