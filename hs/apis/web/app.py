"""The web application: declared endpoints, and Quart for all other paths.

Our own server passes requests to `handle_http`; any other calls the application by ASGI. The view
of the listener determines the resources that are served. Without it (tests, another ASGI server)
everything is served.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

import attrs
import trio
from quart_trio import QuartTrio

from hs.apis.web.auth import Authenticator, NoFederation, OriginAuthenticator
from hs.apis.web.client_address import TrustedProxies
from hs.apis.web.connection_counts import ConnectionCounts
from hs.apis.web.dispatch import (
    OK_HEADERS,
    Dispatcher,
    RenderedResponse,
    render_result,
    response_to_error,
)
from hs.apis.web.drain import Drain
from hs.apis.web.exchange import AsgiExchange, Exchange
from hs.apis.web.http1_writer import ResponseHead
from hs.apis.web.http_request import ClientDisconnected, HttpRequest
from hs.apis.web.limits import Admission, Freshness, NoRateLimits, RateLimits
from hs.apis.web.listener_view import STATE_KEY, ListenerView, MissingResources
from hs.apis.web.render import Headers, Upgrade, error_response
from hs.apis.web.request_log import RequestLog
from hs.apis.web.route import UNAUTHENTICATED_MAX_BODY_BYTES, Endpoint
from hs.apis.web.router import Match, Router, WrongMethod
from hs.core.errors import LimitExceeded, MatrixError, MethodNotAllowed, Unrecognized
from hs.lib.metrics import Metrics

# Spec: client-server API, Web Browser Clients. Web clients also send or read the headers that are
# not listed there.
CORS_HEADERS: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match",
    ),
    (b"access-control-expose-headers", b"Retry-After, ETag, Location"),
]
# Without it browsers ask again after 5 seconds; they limit it to between 10 minutes and a day.
PREFLIGHT_HEADERS: Headers = [(b"access-control-max-age", b"86400")]
CORS_RESOURCES = frozenset(("client", "media", "well_known", "keys", "static"))


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
        self.request_log = RequestLog(metrics or Metrics())
        self.dispatcher = Dispatcher(
            authenticator,
            origins or NoFederation(),
            rates or NoRateLimits(),
            admission or Admission(),
            freshness,
        )
        resources = [endpoint.resources for endpoint in self.endpoints]
        self.full_view = self.view_for(frozenset[str]().union(*resources, ["client"]))
        serves_media = any("media" in endpoint.resources for endpoint in self.endpoints)
        self.missing = MissingResources(self.full_view.router, serves_media)
        self.config["MAX_CONTENT_LENGTH"] = UNAUTHENTICATED_MAX_BODY_BYTES
        self.url_map.merge_slashes = False
        self.url_map.strict_slashes = False
        self.register_error_handler(404, _unrecognized)
        self.register_error_handler(405, _method_not_allowed)
        self.register_error_handler(Exception, _failed)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Respond to a request of any ASGI server."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        view: ListenerView = (scope.get("state") or {}).get(STATE_KEY) or self.full_view
        exchange = AsgiExchange(scope, receive, send)
        await self.handle_http(view, exchange.http_request(view), exchange)

    async def handle_http(
        self, view: ListenerView, http_request: HttpRequest, exchange: Exchange
    ) -> None:
        """Respond to a request by a declared endpoint or else by Quart."""
        started = self.request_log.begin(http_request.method)
        self.drain.enter()
        endpoint: Endpoint | None = None
        try:
            match, response = None, _too_many(view, http_request)
            if response is None:
                match, response = _match(view, http_request)
            if match is None:
                await self.dispatcher.take_turn(http_request)
                if response is not None and response[0] == 404:
                    self.missing.note(view, http_request)
            if match is not None:
                endpoint, http_request.path_params = match
                response = await self.dispatcher.respond(endpoint, http_request)
            elif response is None and not self._has_pages():
                response = render_result(_UNRECOGNIZED)
            elif response is None:
                recorder = _QuartResponse(exchange.send)
                await super().__call__(exchange.asgi_scope(), exchange.receive, recorder)
                self.request_log.end(None, http_request, recorder.status, recorder.size, started)
                return
            cors = endpoint is None or bool(endpoint.resources & CORS_RESOURCES)
            size = await _send(exchange, response, http_request, cors)
            self.request_log.end(endpoint, http_request, response[0], size, started)
        except ClientDisconnected:
            self.request_log.end(endpoint, http_request, CLIENT_CLOSED_REQUEST, 0, started)
        except trio.Cancelled:
            # The connection cancels a handler whose client has disconnected.
            self.request_log.end(endpoint, http_request, CLIENT_CLOSED_REQUEST, 0, started)
            raise
        finally:
            self.drain.leave()
            if view.counts is not None and http_request.source is not None:
                view.counts.leave(http_request.source)

    def _has_pages(self) -> bool:
        # Without any page, Quart's way to a 404 costs twelve times as much as ours.
        return next(iter(self.url_map.iter_rules()), None) is not None

    def view_for(
        self,
        resources: Iterable[str],
        proxies: TrustedProxies | None = None,
        counts: ConnectionCounts | None = None,
    ) -> ListenerView:
        """Return the part of this application that a listener with these resources serves."""
        names = frozenset(resources) | {"health"}
        served = [endpoint for endpoint in self.endpoints if endpoint.resources & names]
        return ListenerView(Router(served), names, proxies, counts)


CLIENT_CLOSED_REQUEST = 499
"""Status in the log of a request whose client disconnected before the response (as in nginx)."""

_OK_HEAD = ResponseHead(200, [*OK_HEADERS, *CORS_HEADERS])
_TOO_MANY = error_response(LimitExceeded("Too many requests at once", retry_after_ms=5000))
_NOT_ALLOWED = error_response(MethodNotAllowed("Unrecognized method"))
_UNRECOGNIZED = error_response(Unrecognized("Unrecognized request"))


@attrs.define
class _QuartResponse:
    """Sends the response of Quart, and records its status and size for the log."""

    send: Any
    status: int = CLIENT_CLOSED_REQUEST
    size: int = 0

    async def __call__(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.size += len(message.get("body", b""))
        await self.send(message)


def _too_many(view: ListenerView, http_request: HttpRequest) -> RenderedResponse | None:
    """Count a request from behind a proxy; return a response if its source has too many."""
    source, http_request.source = http_request.source, None
    if source is None or view.counts is None:
        return None
    if not view.counts.enter(source):
        return render_result(_TOO_MANY)
    http_request.source = source
    return None


def _match(
    view: ListenerView, http_request: HttpRequest
) -> tuple[Match | None, RenderedResponse | None]:
    """Return the endpoint, or a response if there is none; neither means that Quart responds."""
    if http_request.method == "OPTIONS":
        return None, (204, PREFLIGHT_HEADERS, b"")
    try:
        match = view.router.find(http_request.method, http_request.raw_path)
    except WrongMethod as wrong:
        status, headers, body = render_result(_NOT_ALLOWED)
        return None, (status, [*headers, (b"allow", ", ".join(wrong.allowed).encode())], body)
    except MatrixError as error:
        return None, render_result(error_response(error))
    is_page = view.serves_pages and not http_request.raw_path.startswith("/_matrix/")
    if match is None and not is_page:
        return None, render_result(_UNRECOGNIZED)
    return match, None


async def _send(
    exchange: Exchange, response: RenderedResponse, http_request: HttpRequest, cors: bool
) -> int:
    """Send a response and return the size of its body in bytes."""
    status, headers, body = response
    if headers is OK_HEADERS and cors and type(body) is bytes:
        await exchange.respond(_OK_HEAD, body)
        return len(body)
    if isinstance(body, Upgrade):
        await body.run(await exchange.upgrade(body.protocol))
        return 0
    if cors:
        headers = [*headers, *CORS_HEADERS]
    send = exchange.send
    if type(body) is bytes:
        # A 204 must not have a Content-Length.
        headers = [*headers, (b"content-length", b"%d" % len(body))] if status != 204 else headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return len(body)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    try:
        # The body of a response to HEAD is not even read.
        size = 0 if http_request.method == "HEAD" else await _send_parts(send, body)
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
    return _quart_response(Unrecognized("Unrecognized request"))


async def _method_not_allowed(_: Exception) -> tuple[bytes, int, dict[str, str]]:
    return _quart_response(MethodNotAllowed("Unrecognized method"))


async def _failed(error: Exception) -> tuple[bytes, int, dict[str, str]]:
    response = response_to_error(error)
    assert isinstance(response.body, bytes)
    return response.body, response.status, dict(response.headers)


def _quart_response(error: MatrixError) -> tuple[bytes, int, dict[str, str]]:
    response = error_response(error)
    assert isinstance(response.body, bytes)
    return response.body, response.status, dict(response.headers)
