"""The interface of the outgoing HTTP client: requests, responses and faults."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import attrs

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
RESPONSE_TIMEOUT_S = 30.0
MAX_RESPONSE_BYTES = 1 << 20


@attrs.frozen
class HttpResponse:
    """A response; header names are in lower case, `url` is the last one in a chain of redirects."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class HttpFault(Exception):
    """The request failed without a complete response."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class HttpUnreachable(HttpFault):
    """The connection failed, or broke before the response was complete."""


class HttpNotConnected(HttpUnreachable):
    """The connection failed, so the request was not sent."""


class HttpTimedOut(HttpFault):
    """The response was not complete in time."""


class HttpBlocked(HttpFault):
    """The URL or the address of the server is not allowed."""


class ResponseTooLarge(HttpFault):
    """The response is larger than the limit, before or after decompression."""


class HttpClient(Protocol):
    """Sends HTTP requests to other servers."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = RESPONSE_TIMEOUT_S,
        max_bytes: int = MAX_RESPONSE_BYTES,
        redirects: int = 0,
    ) -> HttpResponse:
        """Send a request and return the response, whatever its status.

        At most `redirects` redirects are followed; with 0 the redirect itself is the response.
        `timeout_s` bounds the whole exchange, from the first DNS query to the last byte.

        Raises: HttpFault.
        """
