"""From a call and its endpoint to a response: admission, authentication, parsing, answer."""

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
from hs.apis.web.http_request import Call, ClientGone
from hs.apis.web.limits import Admission, Freshness, RateLimits
from hs.apis.web.render import Headers, Response, error_response, render
from hs.apis.web.request import BodyUse
from hs.apis.web.route import Endpoint
from hs.core.canonical_json import parse_json
from hs.core.errors import MatrixError, RemoteFault, Unavailable

logger = logging.getLogger(__name__)

JSON_TYPE = (b"content-type", b"application/json")
OK_HEADERS: Headers = [JSON_TYPE, (b"cache-control", b"no-cache, no-store, must-revalidate")]

Rendered = tuple[int, Headers, Any]


@attrs.define
class Dispatcher:
    """Answers calls of declared endpoints."""

    authenticator: Authenticator
    origins: OriginAuthenticator
    rates: RateLimits
    admission: Admission
    freshness: Freshness | None = None

    async def answer(self, endpoint: Endpoint, call: Call) -> Rendered:
        """Answer a call, errors included.

        Raises: ClientGone, when there is nobody left to answer.
        """
        try:
            gate = self.admission.gate(endpoint.work)
            if gate is None:
                return rendered(await self._run(endpoint, call))
            async with gate:
                return rendered(await self._run(endpoint, call))
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 the boundary at which faults become answers
            return _spelled_out(failure(error))

    async def _run(self, endpoint: Endpoint, call: Call) -> Any:
        if endpoint.auth is Auth.FEDERATION:
            await self._authenticate_origin(endpoint, call)
        elif endpoint.auth is not Auth.NONE:
            await authenticate(self.authenticator, call, endpoint.auth, endpoint.locked_may)
        if endpoint.rate is not None:
            self.rates.check(endpoint.rate, call.requester, call.client_ip)
        if endpoint.parser is None:
            if endpoint.waits:
                return await _until_disconnect(endpoint.answer, call)
            return await endpoint.answer()
        if endpoint.auth is not Auth.FEDERATION and endpoint.body_use in _READ_FIRST:
            await call.read_body(endpoint.max_body_bytes)
        request = endpoint.parser.parse(call)
        if endpoint.fresh is not None and self.freshness is not None and endpoint.fresh(request):
            await self.freshness.see_all()
        if not endpoint.waits:
            return await endpoint.answer(request)
        return await _until_disconnect(partial(endpoint.answer, request), call)

    async def _authenticate_origin(self, endpoint: Endpoint, call: Call) -> None:
        """Read the body first: it is part of what the other server signed."""
        content = None
        if endpoint.body_use is not BodyUse.STREAM:
            raw = await call.read_body(endpoint.max_body_bytes)
            content = parse_json(raw) if raw else None
        await authenticate_origin(self.origins, call, content)


_READ_FIRST = {BodyUse.JSON, BodyUse.BYTES}


async def _until_disconnect(run: Callable[[], Awaitable[Any]], call: Call) -> Any:
    """Run a handler that waits, and cancel it when its client hangs up."""
    connection = call.disconnect
    if connection is not None:
        connection.watch()
        try:
            return await run()
        finally:
            connection.unwatch()
    answer: Any = None
    answered = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, call, nursery.cancel_scope)
        answer, answered = await run(), True
        nursery.cancel_scope.cancel()
    if not answered:
        raise ClientGone
    return answer


async def _cancel_when_gone(call: Call, scope: trio.CancelScope) -> None:
    await call.wait_disconnected()
    scope.cancel()


def rendered(result: Any) -> Rendered:
    """Turn what a handler returned into status, headers and body."""
    if isinstance(result, Response):
        return _spelled_out(result)
    return 200, OK_HEADERS, render(result)


def _spelled_out(response: Response) -> Rendered:
    headers = [
        (name.lower().encode("ascii"), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]
    return response.status, headers, response.body


def failure(error: Exception) -> Response:
    """Turn an exception into the response a client gets, logging what is our own fault."""
    cause = _cause_of(error)
    if isinstance(cause, MatrixError):
        return error_response(cause)
    if isinstance(cause, Unavailable):
        logger.warning("Answering 503: %s: %s", type(cause).__name__, cause)
        return error_response(MatrixError("M_UNKNOWN", 503, "Not possible just now; try again"))
    if isinstance(cause, RemoteFault):
        logger.info("Answering 502 because a peer failed: %s", cause)
        return error_response(MatrixError("M_UNKNOWN", 502, f"The server {cause.server} failed"))
    logger.error("A request failed", exc_info=error)
    return error_response(MatrixError("M_UNKNOWN", 500, "Internal server error"))


def _cause_of(error: Exception) -> Exception:
    """Find what a client should hear of in a group that came out of a nursery."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause_of(one) for one in error.exceptions]
    told = [one for one in causes if isinstance(one, MatrixError)]
    if len(told) == len(causes) or len(causes) == 1:
        return causes[0]
    return error
