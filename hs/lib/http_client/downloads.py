"""Downloads from https URLs that may be as large as a file, received part by part.

The rules about addresses are those of `directed`. Each redirect passes the same checks, and none
leads away from https.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, Protocol
from urllib.parse import urlsplit

import attrs

from hs.lib.http_client import HttpBlocked, HttpFault
from hs.lib.http_client.directed import DirectedHttpClient, DirectedRequest, OpenResponse
from hs.lib.http_client.targets import RequestTarget, parse_location, parse_target

MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))


class Downloads(Protocol):
    """Opens downloads."""

    def stream(
        self, url: str, *, timeout_s: float, max_bytes: int
    ) -> AbstractAsyncContextManager[OpenResponse]:
        """Request an https URL and open the response without reading its body.

        Redirects are followed. `timeout_s` bounds each exchange, up to the end of its body.
        Raises: HttpFault.
        """
        ...


@attrs.frozen(eq=False)
class HttpsDownloads:
    """The Downloads over the network."""

    _http: DirectedHttpClient
    _user_agent: str
    _tls: ssl.SSLContext

    @asynccontextmanager
    async def stream(
        self, url: str, *, timeout_s: float, max_bytes: int
    ) -> AsyncIterator[OpenResponse]:
        """Open a download; see Downloads."""
        target = parse_target(url)
        for _ in range(MAX_REDIRECTS + 1):
            async with AsyncExitStack() as stack:
                request = self._request(target, timeout_s, max_bytes)
                response = await stack.enter_async_context(self._http.stream(request))
                location = response.headers.get("location")
                if response.status not in _REDIRECTS or location is None:
                    yield response
                    return
            target = parse_location(target, location)
        raise HttpFault(f"more than {MAX_REDIRECTS} redirects")

    def _request(self, target: RequestTarget, timeout_s: float, max_bytes: int) -> DirectedRequest:
        if target.scheme != "https":
            raise HttpBlocked("the URL is not https")
        parts = urlsplit(target.url)
        return DirectedRequest(
            method="GET",
            host=target.host,
            port=target.port,
            certificate_name=target.host,
            uri=parts._replace(scheme="", netloc="", path=parts.path or "/").geturl(),
            headers={"user-agent": self._user_agent, "host": parts.netloc},
            body=None,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            tls=self._tls,
        )
