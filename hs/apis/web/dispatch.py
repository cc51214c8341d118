"""From a request and its endpoint to a response.

The order of the steps is fixed:

1. A turn of the user, or else of the client's address: of each, only a few requests begin in one
   pass of the scheduler (hs/lib/fairness/turns.py), so cheap requests, of which no gate limits the
   number, cannot delay those of others. A request whose body arrives later takes a turn then, so
   those that never arrive delay nobody; one with an access token takes two. RPC calls of our own
   processes take none.
2. Authentication and rate limiting, before the body of a client's request is read. A federation
   request is authenticated after its body is read, since the signature covers the body; the
   endpoint's `max_body_bytes` limits what an unauthenticated server can send.
3. The body, the typed request and freshness.
4. Admission, and the handler. Nothing inside the gate of a work class waits for the peer: a slow
   client must not occupy a slot. So an endpoint with a gate never streams its body, and its
   response is sent after the slot is free again. An endpoint that waits for events must not be
   declared with a gate; it enters one itself while it computes.

A handler declared with `cancel_on_disconnect` is cancelled when its client disconnects; all others
run to completion. If the connection has no disconnect signal (tests), a child task reads
from the client until it disconnects, so such an endpoint must not stream its body. If the handler
returns just as the disconnect is noticed, its result is still used. Cancelling a handler never
cancels a write, because writes run in the services' own tasks.

Every exception becomes a response, except ClientDisconnected. An expected fault in the exception
group of a nursery is unwrapped. A group with other causes contains a bug in the server; like any
bug it is logged, and the client sees only a 500.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio

from hs.apis.web.auth import (
    Auth,
    Authenticator,
    OriginAuthenticator,
    authenticate,
    authenticate_origin,
)
from hs.apis.web.http_request import ClientDisconnected, HttpRequest
from hs.apis.web.limits import Admission, Freshness, RateLimits
from hs.apis.web.render import Headers, Response, error_response, render
from hs.apis.web.request import BodyUse
from hs.apis.web.route import Endpoint
from hs.apis.web.value_conversion import MAX_BRACKETS, reject_many_values
from hs.core.errors import MatrixError, RemoteFault, Unavailable
from hs.lib.client_sources import source_of
from hs.lib.fairness.turns import Turns

logger = logging.getLogger(__name__)

JSON_TYPE = (b"content-type", b"application/json")
OK_HEADERS: Headers = [JSON_TYPE, (b"cache-control", b"no-cache, no-store, must-revalidate")]

# At about 0.2 ms each, one user delays the requests of others by 2 ms for each pass.
REQUESTS_OF_PASS = 8

# Status, headers and body; the body is bytes or an async iterator of bytes.
RenderedResponse = tuple[int, Headers, Any]
Handle = Callable[[], Awaitable[Any]]


@attrs.define
class Dispatcher:
    """Runs the handlers of endpoints."""

    authenticator: Authenticator
    origins: OriginAuthenticator
    rates: RateLimits
    admission: Admission
    freshness: Freshness | None = None
    turns: Turns[str] = attrs.field(factory=lambda: Turns(REQUESTS_OF_PASS), init=False)

    async def take_turn(self, http_request: HttpRequest) -> None:
        """Take a turn of the user of a request, or of the client's address if there is none."""
        requester = http_request.requester
        key = source_of(http_request.client_ip) if requester is None else requester.user_id
        await self.turns.take(key)

    async def respond(self, endpoint: Endpoint, http_request: HttpRequest) -> RenderedResponse:
        """Return the response to a request; errors are rendered too.

        Raises: ClientDisconnected if there is no client left to respond to.
        """
        try:
            return render_result(await self._run(endpoint, http_request))
        except ClientDisconnected:
            raise
        except Exception as error:  # noqa: BLE001 the boundary at which faults become responses
            return _render_response(response_to_error(error))

    async def _run(self, endpoint: Endpoint, http_request: HttpRequest) -> Any:
        if endpoint.auth is Auth.FEDERATION:
            await self._authenticate_origin(endpoint, http_request)
        elif endpoint.auth is not Auth.NONE:
            await authenticate(
                self.authenticator,
                self.turns,
                http_request,
                endpoint.auth,
                endpoint.allow_locked,
            )
        elif http_request.has_arrived and "replication" not in endpoint.resources:
            await self.take_turn(http_request)
        if endpoint.rate is not None:
            self.rates.check(endpoint.rate, http_request.requester, http_request.client_ip)
        handle = await self._prepare(endpoint, http_request)
        gate = self.admission.gate(endpoint.work)
        if gate is not None:
            handle = partial(gate.run, _sharer_of(http_request), handle)
        if http_request.origin is not None:
            handle = partial(self.admission.origins.run, http_request.origin, handle)
        if endpoint.cancel_on_disconnect:
            return await _run_until_disconnect(handle, http_request)
        return await handle()

    async def _prepare(self, endpoint: Endpoint, http_request: HttpRequest) -> Handle:
        """Read and parse the request; return the handler with its argument."""
        if endpoint.parser is None:
            return endpoint.handler
        if endpoint.auth is not Auth.FEDERATION and endpoint.body_use in _READ_FIRST:
            await http_request.read_body(endpoint.max_body_bytes)
            if not http_request.has_arrived:
                await self.take_turn(http_request)
        request = endpoint.parser.parse(http_request)
        if endpoint.fresh is not None and self.freshness is not None and endpoint.fresh(request):
            await self.freshness.catch_up()
        return partial(endpoint.handler, request)

    async def _authenticate_origin(self, endpoint: Endpoint, http_request: HttpRequest) -> None:
        raw = b""
        if endpoint.body_use is not BodyUse.STREAM:
            raw = await http_request.read_body(endpoint.max_body_bytes)
        await self.take_turn(http_request)
        reject_many_values(raw, MAX_BRACKETS * max(1, endpoint.max_body_bytes >> 20))
        await authenticate_origin(self.origins, http_request)


def _sharer_of(http_request: HttpRequest) -> str | None:
    """Return whose share of a gate a request counts for: of a user, else of an address."""
    requester = http_request.requester
    if requester is not None:
        # An application service acts for many users, which may all be one.
        return None if requester.appservice_id is not None else requester.user_id
    return None if http_request.origin is not None else source_of(http_request.client_ip)


_READ_FIRST = {BodyUse.JSON, BodyUse.BYTES}


async def _run_until_disconnect(handle: Handle, http_request: HttpRequest) -> Any:
    """Run a handler and cancel it when its client disconnects. Raises: ClientDisconnected."""
    signal = http_request.disconnect_signal
    if signal is not None:
        signal.watch_disconnect()
        try:
            return await handle()
        finally:
            signal.unwatch_disconnect()
    result: Any = None
    is_done = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_disconnect, http_request, nursery.cancel_scope)
        result, is_done = await handle(), True
        nursery.cancel_scope.cancel()
    if not is_done:
        raise ClientDisconnected
    return result


async def _cancel_on_disconnect(http_request: HttpRequest, scope: trio.CancelScope) -> None:
    await http_request.wait_disconnected()
    scope.cancel()


def render_result(result: Any) -> RenderedResponse:
    """Render what a handler returned: a Response as it is, anything else as JSON with a 200."""
    if isinstance(result, Response):
        return _render_response(result)
    return 200, OK_HEADERS, render(result)


def _render_response(response: Response) -> RenderedResponse:
    headers = [
        (name.lower().encode("ascii"), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]
    return response.status, headers, response.body


def response_to_error(error: Exception) -> Response:
    """Return the response for an exception, and log faults of this and of other servers."""
    cause = _cause_of(error)
    if isinstance(cause, MatrixError):
        return error_response(cause)
    if isinstance(cause, Unavailable):
        logger.warning("responding 503: %s: %s", type(cause).__name__, cause)
        return error_response(MatrixError("M_UNKNOWN", 503, cause.ANSWER))
    if isinstance(cause, RemoteFault):
        logger.info("responding 502 because another server failed: %s", cause)
        return error_response(
            MatrixError("M_UNKNOWN", 502, f"The request to {cause.server} failed")
        )
    logger.error("unhandled error in a request, responding 500", exc_info=error)
    return error_response(MatrixError("M_UNKNOWN", 500, "Internal server error"))


def _cause_of(error: Exception) -> Exception:
    """Return the error for the client from the exception group of a nursery.

    A group is kept whole if it has several causes, some of which are bugs.
    """
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause_of(inner) for inner in error.exceptions]
    expected = [
        cause for cause in causes if isinstance(cause, MatrixError | Unavailable | RemoteFault)
    ]
    if len(expected) == len(causes) or len(causes) == 1:
        return causes[0]
    return error
