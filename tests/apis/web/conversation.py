"""A server on memory streams, raw clients that speak HTTP/1.1 to it, and its endpoints."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from hs.apis.web.app import Application
from hs.apis.web.auth import NONE, USER
from hs.apis.web.http1_limits import HttpLimits
from hs.apis.web.listener_view import STATE_KEY
from hs.apis.web.render import Response, json_response
from hs.apis.web.request import body_stream, path, query, raw_body
from hs.apis.web.route import collect, route
from hs.apis.web.server import Server
from hs.apis.web.transport import StreamTransport
from hs.core.requester import Requester
from tests.support.web import Tokens

Stream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


@attrs.frozen
class EchoRequest:
    """A parameter of the path, and the body."""

    name: str = path()
    content: bytes = raw_body()


@attrs.frozen
class StreamRequest:
    """A body that the handler reads."""

    upload: AsyncIterator[bytes] = body_stream()


@attrs.frozen
class WaitRequest:
    """The time to wait."""

    seconds: int = query(default=0)


@attrs.frozen
class WhoamiRequest:
    """The requester."""

    requester: Requester


@attrs.define
class EchoApi:
    """Endpoints that return what they received, or that wait."""

    cancelled: trio.Event = attrs.field(factory=trio.Event)
    waiting: trio.Event = attrs.field(factory=trio.Event)
    finished: int = 0

    @route("GET", "/hello", auth=NONE)
    async def hello(self) -> dict[str, str]:
        return {"hello": "world"}

    @route("GET", "/whoami", auth=USER)
    async def whoami(self, request: WhoamiRequest) -> dict[str, str]:
        return {"user_id": request.requester.user_id}

    @route("PUT", "/echo/{name}", auth=NONE, max_body_bytes=1000)
    @route("POST", "/echo/{name}", auth=NONE, max_body_bytes=1000)
    async def echo(self, request: EchoRequest) -> dict[str, str]:
        return {"name": request.name, "content": request.content.decode("latin-1")}

    @route("POST", "/unread", auth=NONE)
    async def unread(self) -> dict[str, str]:
        return {}

    @route("POST", "/upload", auth=NONE)
    async def upload(self, request: StreamRequest) -> dict[str, int]:
        size = 0
        async for part in request.upload:
            size += len(part)
        return {"size": size}

    @route("GET", "/nothing", auth=NONE)
    async def nothing(self) -> Response:
        return Response(204)

    @route("GET", "/unchanged", auth=NONE)
    async def unchanged(self) -> Response:
        return Response(304)

    @route("GET", "/parts", auth=NONE)
    async def parts(self) -> Response:
        return Response(200, {}, _parts())

    @route("GET", "/large", auth=NONE)
    async def large(self) -> Response:
        return json_response("x" * 1_000_000)

    @route("GET", "/broken", auth=NONE)
    async def broken(self) -> Response:
        return Response(200, {"x-odd": "a\r\nset-cookie: b"}, b"")

    @route("GET", "/wait", auth=NONE, cancel_on_disconnect=True)
    async def wait(self, request: WaitRequest) -> dict[str, str]:
        self.waiting.set()
        try:
            await trio.sleep(request.seconds)
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return {}

    @route("GET", "/stubborn", auth=NONE)
    async def stubborn(self, request: WaitRequest) -> dict[str, str]:
        self.waiting.set()
        await trio.sleep(request.seconds)
        self.finished += 1
        return {}


async def _parts() -> AsyncIterator[bytes]:
    for part in (b"one", b"two", b"three"):
        await trio.lowlevel.checkpoint()
        yield part


def echo_application(api: object | None = None) -> Application:
    """Return an application with the echo endpoints and the user alice."""
    tokens = Tokens()
    tokens.user("alice")
    return Application(collect(api or EchoApi()), tokens)


@attrs.define
class RawClient:
    """The client side of one connection."""

    stream: Stream

    async def send(self, *pieces: bytes) -> None:
        """Send the pieces separately."""
        for piece in pieces:
            await self.stream.send_all(piece)

    async def drip(self, payload: bytes, every_s: float) -> None:
        """Send single bytes at an interval."""
        for byte in payload:
            await self.send(bytes([byte]))
            await trio.sleep(every_s)

    async def until_closed(self) -> bytes:
        """Return everything that the server sends before it closes."""
        received = b""
        while part := await self.stream.receive_some():
            received += part
        return received

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one response with a Content-Length."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += await self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        while len(body) < int(headers.get("content-length", "0")):
            body += await self._receive()
        return int(lines[0].split(" ")[1]), headers, body

    async def _receive(self) -> bytes:
        part = bytes(await self.stream.receive_some())
        assert part, "the server closed the connection"
        return part

    async def request(self, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send the pieces and return one response."""
        await self.send(*pieces)
        return await self.response()


@attrs.define
class MemoryServer:
    """A server whose clients connect by memory streams."""

    server: Server
    nursery: trio.Nursery

    def connect(self) -> RawClient:
        """Open a connection and return its client."""
        client_end, server_end = memory_stream_pair()
        self.nursery.start_soon(self._serve, server_end)
        return RawClient(client_end)

    async def _serve(self, stream: Stream) -> None:
        template: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "scheme": "http",
            "root_path": "",
            "client": ("192.0.2.1", 4000),
            "server": ("192.0.2.2", 80),
            "state": {STATE_KEY: self.server.app.full_view},
            "extensions": {},
        }
        try:
            await self.server.serve_http1(StreamTransport(stream), template)
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def memory_server(
    app: Application | None = None, limits: HttpLimits | None = None
) -> AsyncIterator[MemoryServer]:
    """Run a server with its reaper for the duration of a test."""
    server = Server(app or echo_application(), limits or HttpLimits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.reap)
        yield MemoryServer(server, nursery)
        nursery.cancel_scope.cancel()


async def exchange(*pieces: bytes) -> bytes:
    """Send the pieces on a new connection, half-close it, and return all that was received."""
    async with memory_server() as server:
        client = server.connect()
        with suppress(trio.BrokenResourceError):  # the server may close early
            await client.send(*pieces)
        await client.stream.send_stream.aclose()
        return await client.until_closed()
