"""Uploading media, at once or to an address announced before."""

from collections.abc import AsyncIterator

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import header, path, query, stream
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.services.media.media_names import parse_address
from hs.services.media.repository import MediaRepository, Upload
from hs.services.media.thumbnails import Thumbnails


@attrs.frozen
class UploadContent:
    """Upload at once."""

    requester: Requester
    parts: AsyncIterator[bytes] = stream()
    filename: str | None = query(default=None)
    content_type: str | None = header("content-type", default=None)
    content_length: int | None = header("content-length", default=None)


@attrs.frozen
class FillAddress:
    """Upload to an address announced before."""

    requester: Requester
    server_name: str = path()
    media_id: str = path()
    parts: AsyncIterator[bytes] = stream()
    filename: str | None = query(default=None)
    content_type: str | None = header("content-type", default=None)
    content_length: int | None = header("content-length", default=None)


@attrs.frozen
class Announce:
    """Reserve an address."""

    requester: Requester


@attrs.frozen
class Uploaded:
    """Where the content is found."""

    content_uri: str
    unused_expires_at: int | None = None


@attrs.frozen
class MediaUploadApi:
    """The paths that take content."""

    repository: MediaRepository
    thumbnails: Thumbnails
    server_name: ServerName

    @route(
        "POST",
        "/_matrix/media/v3/upload",
        auth=USER_OR_GUEST,
        also=["/_matrix/media/v1/upload"],
    )
    async def upload(self, request: UploadContent) -> Uploaded:
        """Spec: client-server API, POST /_matrix/media/v3/upload."""
        stored = await self.repository.upload(request.requester, _upload(request))
        self.thumbnails.draw_soon(stored)
        return Uploaded(stored.uri)

    @route("POST", "/_matrix/media/v1/create", auth=USER_OR_GUEST, rate="media_create")
    async def announce(self, request: Announce) -> Uploaded:
        """Spec: client-server API, POST /_matrix/media/v1/create."""
        reserved = await self.repository.announce(request.requester)
        return Uploaded(reserved.uri, reserved.expires_ms)

    @route("PUT", "/_matrix/media/v3/upload/{server_name}/{media_id}", auth=USER_OR_GUEST)
    async def fill(self, request: FillAddress) -> Empty:
        """Spec: client-server API, PUT /_matrix/media/v3/upload/{serverName}/{mediaId}."""
        origin, media_id = parse_address(request.server_name, request.media_id)
        if origin != self.server_name:
            raise NotFound("The address is not one of this server")
        stored = await self.repository.fill(request.requester, media_id, _upload(request))
        self.thumbnails.draw_soon(stored)
        return Empty()


def _upload(request: UploadContent | FillAddress) -> Upload:
    return Upload(
        parts=request.parts,
        content_type=request.content_type,
        name=request.filename,
        declared_bytes=request.content_length,
    )
