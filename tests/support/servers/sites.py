"""A web server on 127.0.0.1 with scripted responses, which records its requests."""

import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

_HEAD_BYTES = 65536
_SITE_S = 120.0


@attrs.frozen
class SiteRequest:
    """A recorded request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class SiteResponse:
    """A response; `raw` writes the whole response itself instead."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = attrs.Factory(dict)
    raw: Callable[[trio.abc.Stream], Awaitable[None]] | None = None


Respond = Callable[[SiteRequest], SiteResponse | Awaitable[SiteResponse]]


@attrs.define(eq=False)
class Site:
    """The responses by path without query; other paths get 404."""

    port: int = 0
    scheme: str = "http"
    pages: dict[str, SiteResponse | Respond] = attrs.field(factory=dict)
    requests: list[SiteRequest] = attrs.field(factory=list)
    connections: int = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    def html(self, path: str, text: str) -> str:
        """Serve an HTML page and return its URL."""
        self.pages[path] = SiteResponse(
            text.encode(), headers={"content-type": "text/html; charset=utf-8"}
        )
        return self.url(path)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve the requests of one connection."""
        self.connections += 1
        try:
            while (request := await read_request(stream)) is not None:
                self.requests.append(request)
                if not await self.answer(stream, request):
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def answer(self, stream: trio.abc.Stream, request: SiteRequest) -> bool:
        """Respond to one request; return whether the connection can serve another."""
        page = self.pages.get(request.path.partition("?")[0], SiteResponse(b"nothing here", 404))
        if callable(page):
            returned = page(request)
            page = returned if isinstance(returned, SiteResponse) else await returned
        if page.raw is not None:
            await page.raw(stream)
            return False
        headers = {"content-length": str(len(page.body)), **page.headers}
        lines = [
            f"HTTP/1.1 {page.status} Reason",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if request.method != "HEAD":
            await stream.send_all(page.body)
        return True


async def read_request(stream: trio.abc.Stream) -> SiteRequest | None:
    """Read one request; return None at the end of the connection."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        part = await stream.receive_some(_HEAD_BYTES)
        if not part:
            return None
        received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    missing = int(headers.get("content-length", "0")) - len(body)
    while missing > 0:
        part = await stream.receive_some(missing)
        if not part:
            return None
        body += part
        missing -= len(part)
    return SiteRequest(method, path, headers, body)


@asynccontextmanager
async def open_site(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """Run a web server for the duration of a test."""
    site = Site(scheme="https" if tls else "http")
    with trio.fail_after(_SITE_S):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            site.port = listeners[0].socket.getsockname()[1]
            if tls is None:
                nursery.start_soon(trio.serve_listeners, site.serve, listeners)
            else:
                tls_listeners = [
                    trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners
                ]
                nursery.start_soon(trio.serve_listeners, site.serve, tls_listeners)
            yield site
            nursery.cancel_scope.cancel()


def make_certificate(folder: Path) -> Path:
    """Create a key and its self-signed certificate for localhost and 127.0.0.1, in one file."""
    key, cert, both = (folder / name for name in ("site.key", "site.crt", "site.pem"))
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-subj", "/CN=t", "-addext", names, "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def server_tls(certificate: Path) -> ssl.SSLContext:
    """Return the TLS context of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def forward(stream: trio.abc.Stream, hops: list[str], site: Site) -> None:
    """Act as a forward proxy for one request: record it, and send it to `site` in any case."""
    request = await read_request(stream)
    if request is None:
        return
    hops.append(f"{request.method} {request.path}")
    if request.method != "CONNECT":
        path = "/" + request.path.split("/", 3)[-1]
        site.requests.append(request)
        await site.answer(stream, attrs.evolve(request, path=path))
        return
    await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
    upstream = await trio.open_tcp_stream("127.0.0.1", site.port)
    async with upstream, trio.open_nursery() as nursery:

        async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
            try:
                while part := await source.receive_some(_HEAD_BYTES):
                    await sink.send_all(part)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(copy, upstream, stream)
        nursery.start_soon(copy, stream, upstream)


@asynccontextmanager
async def open_proxy(site: Site) -> AsyncIterator[tuple[str, list[str]]]:
    """Run a forward proxy in front of a site; yield its URL and the list of recorded requests."""
    hops: list[str] = []
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            await forward(stream, hops, site)

        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", hops
        nursery.cancel_scope.cancel()
