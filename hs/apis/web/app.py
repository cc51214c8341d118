"""The application object: quart-trio, with declared endpoints answered before Quart is asked.

A listener tells through the ASGI state which resources it serves; without one (HTTP/2 tests, a
foreign server) everything is served.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

import attrs
import trio
from quart_trio import QuartTrio

from hs.apis.web.auth import Authenticator, NoOrigins, OriginAuthenticator
from hs.apis.web.client_address import client_behind, plain_address
from hs.apis.web.dispatch import OK_HEADERS, Dispatcher, Rendered, failure, rendered
from hs.apis.web.drain import Drain
from hs.apis.web.http1_writer import head_of
from hs.apis.web.http_request import Call, ClientGone
from hs.apis.web.limits import Admission, Freshness, NoRateLimits, RateLimits
from hs.apis.web.render import Headers, error_response
from hs.apis.web.request_log import Observer
from hs.apis.web.route import Endpoint
from hs.apis.web.router import Found, Router, WrongMethod
from hs.core.errors import MatrixError, MethodNotAllowed, Unrecognized
from hs.lib.metrics import Metrics

# Spec: client-server API, Web Browser Clients; Content-Disposition and the others are what web
# clients are known to read or send beyond it.
CORS_HEADERS: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match",
    ),
    (b"access-control-expose-headers", b"Retry-After, ETag, Location"),
]
CORS_RESOURCES = frozenset(("client", "media", "well_known", "keys", "static"))
STATE_KEY = "hs.listener"


@attrs.frozen(eq=False)
class ListenerView:
    """What the application must know of the listener a request came in by."""

    router: Router
    resources: frozenset[str]
    x_forwarded: bool = False

    @property
    def serves_pages(self) -> bool:
        """Tell whether paths that no endpoint declares go to Quart."""
        return "client" in self.resources


class Application(QuartTrio):
    """The web application of one process."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        authenticator: Authenticator,
        *,
        origins: OriginAuthenticator | None = None,
        rates: RateLimits | None = None,
        admission: Admission | None = None,
        drain: Drain | None = None,
        metrics: Metrics | None = None,
        freshness: Freshness | None = None,
    ) -> None:
        super().__init__("hs", static_folder=None, template_folder=None)
        self.endpoints = tuple(endpoints)
        self.drain = drain or Drain()
        self.observer = Observer(metrics or Metrics())
        self.dispatcher = Dispatcher(
            authenticator,
            origins or NoOrigins(),
            rates or NoRateLimits(),
            admission or Admission(),
            freshness,
        )
        everything = frozenset[str]().union(*(one.resources for one in self.endpoints), ["client"])
        self.everything = self.view(everything)
        self.config["MAX_CONTENT_LENGTH"] = 1 << 20
        self.url_map.merge_slashes = False
        self.url_map.strict_slashes = False
        self.register_error_handler(404, _unrecognized)
        self.register_error_handler(405, _method_not_allowed)
        self.register_error_handler(Exception, _failed)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request (ASGI): by a declared endpoint, or else by Quart."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        view: ListenerView = (scope.get("state") or {}).get(STATE_KEY) or self.everything
        call = _call_of(scope, receive, view)
        began = self.observer.begin(call.method)
        self.drain.enter()
        endpoint: Endpoint | None = None
        try:
            found, answer = _find(view, call)
            if found is not None:
                endpoint, call.params = found
                answer = await self.dispatcher.answer(endpoint, call)
            elif answer is None:
                sent = _Sent(send)
                await super().__call__(scope, receive, sent)
                self.observer.end(None, call, sent.status, sent.size, began)
                return
            cors = endpoint is None or bool(endpoint.resources & CORS_RESOURCES)
            size = await _send(scope, send, answer, call, cors)
            self.observer.end(endpoint, call, answer[0], size, began)
        except ClientGone:
            self.observer.end(endpoint, call, GONE, 0, began)
        except trio.Cancelled:
            # The connection itself cancels what waits for a client that has hung up.
            self.observer.end(endpoint, call, GONE, 0, began)
            raise
        finally:
            self.drain.leave()

    def view(self, resources: Iterable[str], x_forwarded: bool = False) -> ListenerView:
        """Give the part of this application that a listener with these resources serves."""
        names = frozenset(resources) | {"health"}
        served = [one for one in self.endpoints if one.resources & names]
        return ListenerView(Router(served), names, x_forwarded)


GONE = 499
"""Logged for requests whose clients did not wait for the answer."""

_OK_HEAD = head_of(200, [*OK_HEADERS, *CORS_HEADERS])
_NOT_ALLOWED = error_response(MethodNotAllowed("Unrecognized method"))
_UNRECOGNIZED = error_response(Unrecognized("Unrecognized request"))


@attrs.define
class _Sent:
    """Sends what Quart answers, and remembers what of it is logged."""

    send: Any
    status: int = GONE
    size: int = 0

    async def __call__(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.size += len(message.get("body", b""))
        await self.send(message)


def _find(view: ListenerView, call: Call) -> tuple[Found | None, Rendered | None]:
    """Give the endpoint of a call, or an answer without one; neither: it is for Quart."""
    if call.method == "OPTIONS":
        return None, (204, [], b"")
    try:
        found = view.router.find(call.method, call.target)
    except WrongMethod as wrong:
        status, headers, body = rendered(_NOT_ALLOWED)
        return None, (status, [*headers, (b"allow", ", ".join(wrong.allowed).encode())], body)
    except MatrixError as error:
        return None, rendered(error_response(error))
    if found is None and not (view.serves_pages and not call.target.startswith("/_matrix/")):
        return None, rendered(_UNRECOGNIZED)
    return found, None


def _call_of(scope: Any, receive: Any, view: ListenerView) -> Call:
    client = scope.get("client")
    client_ip = plain_address(client[0]) if client else "127.0.0.1"
    target = scope["raw_path"].decode("latin-1")
    headers = scope["headers"]
    call = Call(scope["method"], target, scope["query_string"], headers, receive, client_ip)
    if view.x_forwarded:
        forwarded = call.header_values(b"x-forwarded-for")
        if forwarded:
            call.client_ip = client_behind(",".join(forwarded), client_ip)
    call.disconnect = (scope.get("extensions") or {}).get("hs.disconnect")
    return call


async def _send(scope: Any, send: Any, answer: Rendered, call: Call, cors: bool) -> int:
    """Send a response; give its size."""
    status, headers, body = answer
    if headers is OK_HEADERS and cors and type(body) is bytes:
        connection = (scope.get("extensions") or {}).get("hs.connection")
        if connection is not None:
            await connection.respond(_OK_HEAD, body)
            return len(body)
    if cors:
        headers = [*headers, *CORS_HEADERS]
    if type(body) is bytes:
        # A length on 204 is forbidden; the connection leaves it out.
        headers = [*headers, (b"content-length", b"%d" % len(body))] if status != 204 else headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return len(body)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    try:
        # What a HEAD would have got is not even read.
        size = 0 if call.method == "HEAD" else await _send_parts(send, body)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return size
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()


async def _send_parts(send: Any, parts: AsyncIterable[bytes]) -> int:
    size = 0
    async for part in parts:
        size += len(part)
        await send({"type": "http.response.body", "body": part, "more_body": True})
    return size


async def _unrecognized(_: Exception) -> tuple[bytes, int, dict[str, str]]:
    return _quart_answer(Unrecognized("Unrecognized request"))


async def _method_not_allowed(_: Exception) -> tuple[bytes, int, dict[str, str]]:
    return _quart_answer(MethodNotAllowed("Unrecognized method"))


async def _failed(error: Exception) -> tuple[bytes, int, dict[str, str]]:
    response = failure(error)
    assert isinstance(response.body, bytes)
    return response.body, response.status, dict(response.headers)


def _quart_answer(error: MatrixError) -> tuple[bytes, int, dict[str, str]]:
    response = error_response(error)
    assert isinstance(response.body, bytes)
    return response.body, response.status, dict(response.headers)
