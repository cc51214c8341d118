"""Downloads of media from other servers.

Spec: server-server API, Content Repository.
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from email.message import Message
from typing import Final
from weakref import WeakValueDictionary

import attrs
import trio

from hs.core.errors import MatrixError, NotFound, NotYetUploaded, RemoteFault
from hs.core.ids import ServerName
from hs.lib.http_client import HttpFault
from hs.lib.http_client.directed import OpenResponse
from hs.lib.http_client.downloads import Downloads
from hs.services.federation.users.multipart import (
    MalformedMultipart,
    MultipartReader,
    boundary_of,
)
from hs.services.federation_client.client import (
    FederationClient,
    check_status,
    is_unrecognized,
    segment,
    uri_of,
)
from hs.services.federation_client.peer_transport import PeerResponse, StreamedResponse
from hs.services.media.remote_media import RemoteContent

DOWNLOAD_S: Final = 300.0
"""Time for a whole download, in addition to that for which the server may wait for an upload."""

MAX_AT_ONCE: Final = 50  # from one server; more than those of one user
MAX_METADATA_BYTES: Final = 65_536
_MAX_ERROR_BYTES: Final = 65_536
_MULTIPART_BYTES: Final = 131_072
_DOWNLOAD: Final = "/_matrix/federation/v1/media/download/"
_OLD_DOWNLOAD: Final = "/_matrix/media/v3/download/"
_DEFAULT_TYPE: Final = "application/octet-stream"


@attrs.define(eq=False)
class FederatedMedia:
    """The RemoteMedia of a server with federation.

    Redirects lead to URLs that other servers choose.
    """

    _client: FederationClient
    _downloads: Downloads
    _max_bytes: int
    _turns: WeakValueDictionary[ServerName, trio.CapacityLimiter] = attrs.field(
        factory=WeakValueDictionary, init=False
    )

    @asynccontextmanager
    async def download(
        self, origin: ServerName, media_id: str, timeout_ms: int
    ) -> AsyncIterator[RemoteContent]:
        """Open a download. Raises: NotFound, NotYetUploaded, MatrixError 502, RemoteFault."""
        turns = self._turns.get(origin)
        if turns is None:
            turns = self._turns[origin] = trio.CapacityLimiter(MAX_AT_ONCE)
        async with turns, AsyncExitStack() as stack:
            try:
                content = await self._open(stack, origin, media_id, timeout_ms)
            except MalformedMultipart as fault:
                raise RemoteFault(origin, f"its response is malformed: {fault}") from None
            yield content

    async def _open(
        self, stack: AsyncExitStack, origin: ServerName, media_id: str, timeout_ms: int
    ) -> RemoteContent:
        uri = uri_of(_DOWNLOAD + segment(media_id), {"timeout_ms": timeout_ms})
        try:
            response = await self._request(stack, origin, uri, timeout_ms)
        except RemoteFault as fault:
            if not is_unrecognized(fault):
                raise _to_client(fault) from None
        else:
            return await self._from_multipart(stack, origin, response)
        path = f"{_OLD_DOWNLOAD}{segment(origin)}/{segment(media_id)}"
        uri = uri_of(path, {"allow_remote": "false", "timeout_ms": timeout_ms})
        try:
            response = await self._request(stack, origin, uri, timeout_ms)
        except RemoteFault as fault:
            raise _to_client(fault) from None
        return _content(response.headers, response.parts)

    async def _request(
        self, stack: AsyncExitStack, origin: ServerName, uri: str, timeout_ms: int
    ) -> StreamedResponse:
        """Open a successful response. Raises: RemoteFault."""
        response = await stack.enter_async_context(
            self._client.stream(
                origin,
                uri,
                timeout_s=DOWNLOAD_S + timeout_ms / 1000,
                max_bytes=self._max_bytes + _MULTIPART_BYTES,
            )
        )
        if response.status == 200:
            return response
        body = b""
        async for part in response.parts:
            body += part
            if len(body) > _MAX_ERROR_BYTES:
                break
        check_status(origin, PeerResponse(response.status, response.headers, body))
        raise RemoteFault(origin, f"it responded with status {response.status}")

    async def _from_multipart(
        self, stack: AsyncExitStack, origin: ServerName, response: StreamedResponse
    ) -> RemoteContent:
        boundary = boundary_of(response.headers.get("content-type", ""))
        reader = MultipartReader(response.parts, boundary)
        await reader.next_headers()
        await reader.small_content(MAX_METADATA_BYTES)
        headers = await reader.next_headers()
        location = headers.get("location")
        if location is not None:
            return await self._redirected(stack, origin, location)
        parts = await stack.enter_async_context(aclosing(_received(origin, reader)))
        return _content(headers, parts)

    async def _redirected(
        self, stack: AsyncExitStack, origin: ServerName, url: str
    ) -> RemoteContent:
        if not url.startswith("https://"):
            raise RemoteFault(origin, "it redirects to a URL that is not https", retry=False)
        try:
            response = await stack.enter_async_context(
                self._downloads.stream(url, timeout_s=DOWNLOAD_S, max_bytes=self._max_bytes)
            )
        except HttpFault as fault:
            raise _redirect_fault(origin, fault.message) from None
        if response.status != 200:
            raise _redirect_fault(origin, f"status {response.status}")
        parts = await stack.enter_async_context(aclosing(_redirected_parts(origin, response)))
        return _content(response.headers, parts)


def _to_client(fault: RemoteFault) -> Exception:
    """Return what a client may learn of a fault."""
    error = fault.error
    if isinstance(error, NotFound | NotYetUploaded):
        return error
    if error is not None and error.errcode == "M_TOO_LARGE":
        return MatrixError("M_TOO_LARGE", 502, error.message)
    return fault


async def _received(origin: ServerName, reader: MultipartReader) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(reader.content()) as parts:
            async for part in parts:
                yield part
    except MalformedMultipart as fault:
        raise RemoteFault(origin, f"its response is malformed: {fault}") from None


async def _redirected_parts(
    origin: ServerName, response: OpenResponse
) -> AsyncGenerator[bytes, None]:
    try:
        async for part in response.parts:
            yield part
    except HttpFault as fault:
        raise _redirect_fault(origin, fault.message) from None


def _redirect_fault(origin: ServerName, reason: str) -> RemoteFault:
    return RemoteFault(origin, f"the URL to which it redirects failed: {reason}")


def _content(headers: Mapping[str, str], parts: AsyncIterable[bytes]) -> RemoteContent:
    content_type = headers.get("content-type", _DEFAULT_TYPE)
    return RemoteContent(content_type, _file_name(headers.get("content-disposition")), parts)


def _file_name(disposition: str | None) -> str | None:
    """Return the file name in a Content-Disposition, by RFC 6266 and RFC 2231."""
    if disposition is None:
        return None
    message = Message()
    message["content-disposition"] = disposition
    try:
        return message.get_filename()
    except (TypeError, ValueError, LookupError):
        return None  # the parser of the library fails on some malformed parameters
