"""Signed requests to other servers.

Spec: server-server API, Request Authentication.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypedDict, Unpack
from urllib.parse import quote, urlencode

import attrs
import trio

from hs.core.canonical_json import JsonObject, count_values, parse_json
from hs.core.errors import MatrixError, RemoteFault, matrix_error
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer
from hs.core.signing.requests import authorization_header
from hs.services.federation_client.peer_transport import (
    PeerRequest,
    PeerResponse,
    PeerTransport,
    StreamedResponse,
)
from hs.services.federation_client.retry_after import retry_after_s

Query = Mapping[str, str | int | Iterable[str]]

MAX_RESPONSE_BYTES: Final = 1 << 20
MAX_ERROR_BYTES: Final = 1 << 16
MAX_ERRCODE_CHARS: Final = 255
MAX_MESSAGE_CHARS: Final = 1000
MAX_VALUES: Final = 5_000_000
"""Values in the JSON of a response. Parsed, each takes up to 100 bytes, and as text 2."""

PARSED_AT_ONCE: Final = 4
"""Large responses; parsed, they may take 50 times their size."""

MIN_BYTES_FOR_THREAD: Final = 1 << 18  # parsing a MiB of JSON takes about 10 ms


class RequestOptions(TypedDict, total=False):
    """How a request is sent; see PeerRequest."""

    timeout_s: float
    max_bytes: int
    ignores_backoff: bool


@attrs.frozen(eq=False)
class FederationClient:
    """Sends signed requests to other servers and returns the JSON objects of their responses.

    `timeout_s` bounds requests for which the caller sets no other time.
    """

    _signer: Signer
    _transport: PeerTransport
    timeout_s: float = 60.0
    _parsing: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(PARSED_AT_ONCE), init=False
    )

    @property
    def server_name(self) -> ServerName:
        """Name of this server."""
        return self._signer.server_name

    async def get(
        self,
        server: ServerName,
        path: str,
        query: Query | None = None,
        **options: Unpack[RequestOptions],
    ) -> JsonObject:
        """Send a GET request; see `request`."""
        return await self.request(server, "GET", uri_of(path, query), None, **options)

    async def request(
        self,
        server: ServerName,
        method: str,
        uri: str,
        body: bytes | None,
        **options: Unpack[RequestOptions],
    ) -> JsonObject:
        """Send a request and return the object in its response.

        `uri_of` makes the `uri`; `body` is canonical JSON.
        Raises: RemoteFault; its `error` is the error that the server responded with, if any.
        """
        response = await self.exchange(server, method, uri, body, **options)
        if len(response.body) < MIN_BYTES_FOR_THREAD:
            return object_in(server, response)
        return await trio.to_thread.run_sync(object_in, server, response, limiter=self._parsing)

    async def exchange(
        self,
        server: ServerName,
        method: str,
        uri: str,
        body: bytes | None,
        **options: Unpack[RequestOptions],
    ) -> PeerResponse:
        """Send a request and return its response, whatever its status. Raises: RemoteFault."""
        if server == self.server_name:
            raise RemoteFault(server, "this server does not send requests to itself", retry=False)
        headers = {"authorization": authorization_header(self._signer, server, method, uri, body)}
        if body is not None:
            headers["content-type"] = "application/json"
        return await self._transport.send(
            PeerRequest(
                server=server,
                method=method,
                uri=uri,
                headers=headers,
                body=body,
                timeout_s=options.get("timeout_s", self.timeout_s),
                max_bytes=options.get("max_bytes", MAX_RESPONSE_BYTES),
                ignores_backoff=options.get("ignores_backoff", False),
            )
        )

    @asynccontextmanager
    async def stream(
        self, server: ServerName, uri: str, *, timeout_s: float, max_bytes: int
    ) -> AsyncIterator[StreamedResponse]:
        """Send a GET request and open its response, whatever its status. Raises: RemoteFault."""
        if server == self.server_name:
            raise RemoteFault(server, "this server does not send requests to itself", retry=False)
        request = PeerRequest(
            server=server,
            method="GET",
            uri=uri,
            headers={"authorization": authorization_header(self._signer, server, "GET", uri, None)},
            body=None,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
        )
        async with self._transport.stream(request) as response:
            yield response


def uri_of(path: str, query: Query | None = None) -> str:
    """Return a path with a query string; `path` has its variable segments quoted by `segment`."""
    if not query:
        return path
    return f"{path}?{urlencode(query, doseq=True)}"


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


def object_in(server: ServerName, response: PeerResponse) -> JsonObject:
    """Return the JSON object of a successful response. Raises: RemoteFault."""
    check_status(server, response)
    check_values(server, response.body)
    try:
        value = parse_json(response.body)
    except MatrixError as fault:
        raise RemoteFault(server, f"its response is not JSON: {fault.message}") from None
    if not isinstance(value, dict):
        raise RemoteFault(server, "its response is not a JSON object")
    return value


def check_values(server: ServerName, body: bytes) -> None:
    """Raise RemoteFault if the JSON of a response has so many values that they take gigabytes."""
    if count_values(body) > MAX_VALUES:
        raise RemoteFault(server, f"its response has more than {MAX_VALUES} values", retry=False)


def check_status(server: ServerName, response: PeerResponse) -> None:
    """Raise the error in a response that is not successful. Raises: RemoteFault."""
    if response.status == 200:
        return
    retry = response.status >= 500 or response.status == 429
    body = error_in(response)
    errcode = body.get("errcode")
    if isinstance(errcode, str) and len(errcode) > MAX_ERRCODE_CHARS:
        errcode = None
    if not isinstance(errcode, str) and response.status in (404, 405):
        errcode = "M_UNRECOGNIZED"  # older servers respond with a page of their web server
    wait_s = retry_after_s(response)
    if not isinstance(errcode, str):
        message = f"it responded with status {response.status}"
        raise RemoteFault(server, message, retry=retry, retry_after_s=wait_s)
    text, version = body.get("error"), body.get("room_version")
    message = text[:MAX_MESSAGE_CHARS] if isinstance(text, str) else ""
    extra = {"room_version": version} if isinstance(version, str) else {}
    error = matrix_error(errcode, response.status, message, **extra)
    raise RemoteFault(
        server,
        f"it responded {errcode}: {message:.200}",
        error=error,
        retry=retry,
        retry_after_s=wait_s,
    )


def error_in(response: PeerResponse) -> JsonObject:
    """Return the JSON object of a response that is not successful; empty if there is none."""
    if len(response.body) > MAX_ERROR_BYTES:
        return {}
    try:
        body = parse_json(response.body)
    except MatrixError:
        return {}
    return body if isinstance(body, dict) else {}


def is_unrecognized(fault: RemoteFault) -> bool:
    """Return whether a server does not have the endpoint that it was asked for."""
    return fault.error is not None and fault.error.errcode == "M_UNRECOGNIZED"
