"""One HTTP/1.1 connection: a single task that parses, awaits the application and writes.

There is no timer task either. The connection says until when its peer must have moved
(`deadline`), and the server's reaper cancels it after that.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import unquote

import trio

from hs.apis.web.disconnects import Hangups
from hs.apis.web.http1_limits import HttpBounds
from hs.apis.web.http1_parser import Inbox, Incoming, Refusal
from hs.apis.web.http1_writer import BrokenResponse, Writer, refusal_bytes
from hs.apis.web.http_request import ClientGone
from hs.apis.web.transport import Transport, has_arrived

logger = logging.getLogger(__name__)

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_GONE = {"type": "http.disconnect"}
_EARLY_BYTES = 65536


class Surroundings(Protocol):
    """What a connection reads of its server."""

    bounds: HttpBounds
    now: float
    date: bytes
    hangups: Hangups | None

    @property
    def is_draining(self) -> bool:
        """Tell whether connections should end after their response."""
        ...


class Http1Connection:
    """One connection, and the request it is busy with."""

    __slots__ = (
        "_app",
        "_body_deadline",
        "_delivered",
        "_early",
        "_inbox",
        "_is_new",
        "_request",
        "_server",
        "_template",
        "_transport",
        "_writer",
        "deadline",
        "http2",
        "scope",
    )

    def __init__(
        self, app: AsgiApp, server: Surroundings, transport: Transport, template: dict[str, Any]
    ) -> None:
        self._app = app
        self._server = server
        self._transport = transport
        self._template = template
        if server.hangups is not None and transport.fd is not None:
            self._template["extensions"] = {"hs.connection": self, "hs.disconnect": self}
        else:
            self._template["extensions"] = {"hs.connection": self}
        self._inbox = Inbox(server.bounds)
        self._request: Incoming | None = None
        self._writer: Writer | None = None
        self._delivered = False
        self._is_new = True
        self._body_deadline = 0.0
        self._early: list[bytes] = []
        self.deadline = server.now + server.bounds.head_s
        self.scope = trio.CancelScope()
        self.http2: bytes | None = None

    @property
    def is_idle(self) -> bool:
        """Tell whether the connection only waits for its next request."""
        return self._request is None and self._inbox.is_idle

    def leave(self) -> None:
        """End the connection if it only waits for its next request.

        Who has just connected, or asked already, is heard; the answer will end the connection.
        """
        if not self.is_idle:
            return
        if self._may_still_ask():
            self._hurry()
        else:
            self.scope.cancel()

    def _may_still_ask(self) -> bool:
        return self._is_new or has_arrived(self._transport)

    def _hurry(self) -> None:
        self.deadline = min(self.deadline, self._server.now + self._server.bounds.last_words_s)

    async def run(self, first: bytes = b"") -> None:
        """Serve the connection to its end, or until `http2` is set; never closes the stream."""
        with self.scope:
            try:
                if first:
                    self._inbox.feed(first)
                while (request := await self._next_request()) is not None:
                    if not await self._respond(request):
                        break
                if self._inbox.refusal is not None:
                    await self._refuse(self._inbox.refusal)
            except ClientGone:
                return
            finally:
                self._forget()

    def _forget(self) -> None:
        fd, hangups = self._transport.fd, self._server.hangups
        if fd is not None and hangups is not None:
            hangups.forget(fd)

    async def _next_request(self) -> Incoming | None:
        inbox, server = self._inbox, self._server
        while self._early and inbox.is_idle:
            inbox.feed(self._early.pop(0))
        head_deadline = None
        while not inbox.requests:
            if inbox.refusal is not None or inbox.http2 is not None:
                self.http2 = inbox.http2
                return None
            if not inbox.is_idle:
                head_deadline = head_deadline or server.now + server.bounds.head_s
                self.deadline = head_deadline
            elif server.is_draining:
                if not self._may_still_ask():
                    return None
                self._hurry()
            received = await self._transport.read()
            if not received:
                return None
            inbox.feed(received)
        self.deadline = math.inf
        self._is_new = False
        return inbox.requests.popleft()

    async def _respond(self, request: Incoming) -> bool:
        """Answer one request; tell whether the connection can go on."""
        writer = self._writer = Writer(request, request.keep_alive)
        self._request = request
        self._delivered = False
        self._body_deadline = self._server.now + self._server.bounds.body_grace_s
        try:
            await self._app(self._scope_of(request), self.receive, self.send)
        except ClientGone:
            return False
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 the app's fault ends here
            await self._fail(error, writer)
            return False
        finally:
            self._request = self._writer = None
        is_cut_off = self._inbox.refusal is not None and not request.complete
        if not writer.ended or not writer.keep_alive or is_cut_off:
            await self._end(request, writer)
            return False
        if not request.complete and not await self._skip_body(request):
            return False
        self.deadline = self._server.now + self._server.bounds.keep_alive_s
        return True

    async def _end(self, request: Incoming, writer: Writer) -> None:
        if self._inbox.refusal is not None and not writer.has_begun:
            return  # The refusal is the answer.
        self._inbox.refusal = None
        if writer.has_begun and not request.complete:
            await self._linger()

    async def _fail(self, error: BaseException, writer: Writer) -> None:
        if isinstance(error, BaseExceptionGroup):
            if error.split(Exception)[1] is not None:
                raise error
            if error.split(ClientGone)[1] is None:
                return
        logger.error("The application failed", exc_info=error)
        self._inbox.refusal = None
        if not writer.has_begun:
            await self._refuse(Refusal(500, "Internal server error"))

    async def _refuse(self, refusal: Refusal) -> None:
        self._inbox.refusal = None
        await self._write(refusal_bytes(refusal, self._server.date))
        await self._linger()

    async def _linger(self) -> None:
        self.deadline = self._server.now + self._server.bounds.linger_s
        await self._transport.linger()

    async def _skip_body(self, request: Incoming) -> bool:
        """Read past a body that the application did not want."""
        while not request.complete:
            if not await self._read_body(request):
                return False
            request.body.clear()
        return True

    def _scope_of(self, request: Incoming) -> dict[str, Any]:
        scope = self._template.copy()
        path = request.path.decode("ascii")
        scope["http_version"] = request.version
        scope["method"] = request.method
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = request.path
        scope["query_string"] = request.query
        scope["headers"] = request.headers
        return scope

    async def receive(self) -> dict[str, Any]:
        """Give the next part of the body, or say that the client is gone (ASGI)."""
        request = self._request
        if request is None:
            return _GONE
        if self._delivered:
            await self._wait_gone()
            return _GONE
        if not request.body and not request.complete:
            if request.expects_continue:
                request.expects_continue = False
                await self._write(_CONTINUE)
            while not request.body and not request.complete:
                if not await self._read_body(request):
                    return _GONE
        parts, request.body = request.body, []
        self._delivered = request.complete
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return {"type": "http.request", "body": body, "more_body": not request.complete}

    async def _read_body(self, request: Incoming) -> bool:
        if self._inbox.refusal is not None:
            return False  # The malformed part came along with the head: nothing more is read.
        bounds = self._server.bounds
        self.deadline = self._body_deadline + request.received_bytes / bounds.body_bytes_per_s
        received = await self._transport.read()
        self.deadline = math.inf
        self._inbox.feed(received)
        return bool(received) and (request.complete or self._inbox.refusal is None)

    async def _wait_gone(self) -> None:
        fd, hangups = self._transport.fd, self._server.hangups
        if fd is not None and hangups is not None:
            await hangups.wait(fd)
            return
        while sum(map(len, self._early)) < _EARLY_BYTES:
            received = await self._transport.read()
            if not received:
                return
            self._early.append(received)
        await trio.sleep_forever()

    async def send(self, message: Any) -> None:
        """Take a part of the response (ASGI)."""
        writer = self._writer
        if writer is None:
            raise BrokenResponse("The response has ended")
        if message["type"] == "http.response.start":
            if self._must_close():
                writer.keep_alive = False
            writer.start(message["status"], message.get("headers", []), self._server.date)
        elif message["type"] == "http.response.body":
            payload = writer.body(message.get("body", b""), message.get("more_body", False))
            if payload:
                await self._write(payload)

    async def respond(self, head: bytes, body: bytes) -> None:
        """Send a whole response; `head` is the status line and all headers but the usual ones."""
        writer = self._writer
        if writer is None:
            raise BrokenResponse("The response has ended")
        if self._must_close():
            writer.keep_alive = False
        await self._write(writer.whole(head, body, self._server.date))

    def _must_close(self) -> bool:
        """Tell whether what is left of the body is more than is worth reading past."""
        request = self._request
        if self._server.is_draining:
            return True
        if request is None or request.complete:
            return False
        missing = request.missing_bytes
        return (
            request.expects_continue
            or missing is None
            or missing > self._server.bounds.unread_body_bytes
        )

    async def _write(self, payload: bytes) -> None:
        bounds = self._server.bounds
        resume = self.deadline
        self.deadline = (
            self._server.now + bounds.write_grace_s + len(payload) / bounds.write_bytes_per_s
        )
        await self._transport.write(payload)
        self.deadline = resume

    def watch(self) -> None:
        """Cancel the connection, and what it is busy with, when the client hangs up."""
        assert self._server.hangups is not None
        assert self._transport.fd is not None
        self._server.hangups.watch(self._transport.fd, self.scope)

    def unwatch(self) -> None:
        """Stop watching."""
        assert self._server.hangups is not None
        assert self._transport.fd is not None
        self._server.hangups.unwatch(self._transport.fd)
