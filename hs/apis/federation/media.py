"""Media of this server for other servers, as multipart bodies."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Literal

import attrs
import orjson

from hs.apis.media.lookup import find_until_drained, read_thumbnail
from hs.apis.media.serving import disposition
from hs.apis.web.auth import FEDERATION
from hs.apis.web.drain import Drain
from hs.apis.web.render import Response
from hs.apis.web.request import path, query
from hs.apis.web.route import route
from hs.core.errors import InvalidParam
from hs.core.ids import ServerName
from hs.services.media.media_names import parse_address
from hs.services.media.repository import Media, MediaRepository
from hs.services.media.thumbnail_sizes import RequestedThumbnail
from hs.services.media.thumbnails import Thumbnails

DEFAULT_WAIT_MS = 20_000
_METADATA = orjson.dumps({})


@attrs.frozen
class ServedMediaRequest:
    """GET /media/download/{mediaId}."""

    media_id: str = path()
    timeout_ms: int = query(default=DEFAULT_WAIT_MS)


@attrs.frozen
class ServedThumbnailRequest:
    """GET /media/thumbnail/{mediaId}."""

    media_id: str = path()
    width: int = query()
    height: int = query()
    method: Literal["crop", "scale"] = query(default="scale")
    animated: bool = query(default=False)
    timeout_ms: int = query(default=DEFAULT_WAIT_MS)


@attrs.frozen
class ServedMediaApi:
    """Endpoints of this server's own media.

    No work class: a download may be slow, and would hold a place for as long as it takes.
    """

    repository: MediaRepository
    thumbnails: Thumbnails
    server_name: ServerName
    drain: Drain

    @route(
        "GET",
        "/_matrix/federation/v1/media/download/{media_id}",
        auth=FEDERATION,
        cancel_on_disconnect=True,
    )
    async def download(self, request: ServedMediaRequest) -> Response:
        """Spec: server-server API, Content Repository."""
        media = await self._find(request.media_id, request.timeout_ms)
        assert media.location is not None
        contents = self.repository.contents
        size = await contents.ensure(media.location)
        content = contents.folder.read(media.location, 0, size)
        return _multipart(media.content_type, media.upload_name, size, content)

    @route(
        "GET",
        "/_matrix/federation/v1/media/thumbnail/{media_id}",
        auth=FEDERATION,
        cancel_on_disconnect=True,
    )
    async def get_thumbnail(self, request: ServedThumbnailRequest) -> Response:
        """Spec: server-server API, Content Repository."""
        if request.width <= 0 or request.height <= 0:
            raise InvalidParam("width and height must be positive")
        size = RequestedThumbnail(request.width, request.height, request.method, request.animated)
        media = await self._find(request.media_id, request.timeout_ms)
        thumbnail = await self.thumbnails.find(media, size)
        name = f"thumbnail.{thumbnail.content_type.rpartition('/')[2]}"
        content = read_thumbnail(self.repository, thumbnail, 0, thumbnail.size_bytes)
        return _multipart(thumbnail.content_type, name, thumbnail.size_bytes, content)

    async def _find(self, media_id: str, timeout_ms: int) -> Media:
        """Return media of this server. Raises: NotFound, NotYetUploaded."""
        origin, media_id = parse_address(self.server_name, media_id)
        # Other servers are authenticated, so media that need a token are for them too.
        find = partial(self.repository.find, origin, media_id, has_token=True)
        return await find_until_drained(find, timeout_ms, self.drain)


def _multipart(
    content_type: str, name: str | None, size: int, content: AsyncIterator[bytes]
) -> Response:
    boundary = secrets.token_hex(16)
    head = (
        f"--{boundary}\r\ncontent-type: application/json\r\n\r\n{_METADATA.decode()}\r\n"
        f"--{boundary}\r\ncontent-type: {content_type}\r\n"
        f"content-disposition: {disposition(content_type, name)}\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "content-type": f"multipart/mixed; boundary={boundary}",
        "content-length": str(len(head) + size + len(tail)),
    }
    return Response(200, headers, _joined(head, content, tail))


async def _joined(
    head: bytes, content: AsyncIterator[bytes], tail: bytes
) -> AsyncGenerator[bytes, None]:
    try:
        yield head
        async for part in content:
            yield part
        yield tail
    finally:
        if isinstance(content, AsyncGenerator):
            await content.aclose()  # closes the file
