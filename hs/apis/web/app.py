"""The application object: quart-trio, with declared endpoints answered before Quart is asked.

A listener tells through the ASGI state which resources it serves; without one (HTTP/2 tests, a
foreign server) everything is served.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

import attrs
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection

from hs.apis.web.auth import Authenticator, NoOrigins, OriginAuthenticator
from hs.apis.web.call import Call, ClientGone
from hs.apis.web.dispatch import Dispatcher, Rendered, failure, rendered
from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission, NoRateLimits, RateLimits
from hs.apis.web.observe import Observer
from hs.apis.web.peers import client_behind, plain_address
from hs.apis.web.render import Headers, error_response
from hs.apis.web.route import Endpoint
from hs.apis.web.router import Router, WrongMethod
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
    ) -> None:
        super().__init__("hs", static_folder=None, template_folder=None)
        self.asgi_http_class = Connection
        self.endpoints = tuple(endpoints)
        self.drain = drain or Drain()
        self.observer = Observer(metrics or Metrics())
        self.dispatcher = Dispatcher(
            authenticator, origins or NoOrigins(), rates or NoRateLimits(), admission or Admission()
        )
        everything = frozenset[str]().union(*(one.resources for one in self.endpoints), ["client"])
        self.everything = self.view(everything)
        self.config["MAX_CONTENT_LENGTH"] = 1 << 20
        self.url_map.merge_slashes = False
        self.url_map.strict_slashes = False
        self.register_error_handler(404, _unrecognized)
        self.register_error_handler(405, _method_not_allowed)
        self.register_error_handler(Exception, _failed)

    def view(self, resources: Iterable[str], x_forwarded: bool = False) -> ListenerView:
        """Give the part of this application that a listener with these resources serves."""
        names = frozenset(resources) | {"health"}
        served = [one for one in self.endpoints if one.resources & names]
        return ListenerView(Router(served), names, x_forwarded)


class Connection(TrioASGIHTTPConnection):
    """One request: a declared endpoint, or else Quart."""

    app: Application

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the request."""
        app = self.app
        scope: dict[str, Any] = {**self.scope}
        view: ListenerView = (scope.get("state") or {}).get(STATE_KEY) or app.everything
        call = _call_of(scope, receive, view)
        began = app.observer.begin(call.method)
        app.drain.enter()
        endpoint: Endpoint | None = None
        try:
            if call.method == "OPTIONS":
                await _send(send, (204, [], b""), call, cors=True)
                return
            try:
                found = view.router.find(call.method, call.target)
            except WrongMethod as wrong:
                allow = ", ".join(wrong.allowed).encode()
                status, headers, body = rendered(_NOT_ALLOWED)
                answer: Rendered = status, [*headers, (b"allow", allow)], body
            except MatrixError as error:
                answer = rendered(error_response(error))
            else:
                if found is not None:
                    endpoint, call.params = found
                    answer = await app.dispatcher.answer(endpoint, call)
                elif view.serves_pages and not call.target.startswith("/_matrix/"):
                    await super().__call__(receive, send)
                    return
                else:
                    answer = rendered(_UNRECOGNIZED)
            cors = endpoint is None or bool(endpoint.resources & CORS_RESOURCES)
            size = await _send(send, answer, call, cors)
            app.observer.end(endpoint, call, answer[0], size, began)
        except ClientGone:
            app.observer.end(endpoint, call, 499, 0, began)
        finally:
            app.drain.leave()


_NOT_ALLOWED = error_response(MethodNotAllowed("Unrecognized method"))
_UNRECOGNIZED = error_response(Unrecognized("Unrecognized request"))


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


async def _send(send: ASGISendCallable, answer: Rendered, call: Call, cors: bool) -> int:
    """Send a response; give its size."""
    status, headers, body = answer
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


async def _send_parts(send: ASGISendCallable, parts: AsyncIterable[bytes]) -> int:
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
