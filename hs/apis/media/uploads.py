"""Uploading media, directly or to an MXC URI that was created before."""

from collections.abc import AsyncIterator

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import body_stream, header, path, query
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.services.media.media_names import parse_address
from hs.services.media.repository import MediaRepository, Upload
from hs.services.media.thumbnails import Thumbnails


@attrs.frozen
class UploadContentRequest:
    """POST /upload."""

    requester: Requester
    parts: AsyncIterator[bytes] = body_stream()
    filename: str | None = query(default=None)
    content_type: str | None = header("content-type", default=None)
    content_length: int | None = header("content-length", default=None)


@attrs.frozen
class UploadContentToMxcRequest:
    """PUT /upload/{serverName}/{mediaId}."""

    requester: Requester
    server_name: str = path()
    media_id: str = path()
    parts: AsyncIterator[bytes] = body_stream()
    filename: str | None = query(default=None)
    content_type: str | None = header("content-type", default=None)
    content_length: int | None = header("content-length", default=None)


@attrs.frozen
class CreateContentRequest:
    """POST /create."""

    requester: Requester


@attrs.frozen
class UploadResponse:
    """The MXC URI of the content, and until when content must be uploaded to it."""

    content_uri: str
    unused_expires_at: int | None = None


@attrs.frozen
class MediaUploadApi:
    """Endpoints that upload media."""

    repository: MediaRepository
    thumbnails: Thumbnails
    server_name: ServerName

    @route(
        "POST",
        "/_matrix/media/v3/upload",
        auth=USER_OR_GUEST,
        extra_paths=["/_matrix/media/v1/upload"],
    )
    async def upload_content(self, request: UploadContentRequest) -> UploadResponse:
        """Spec: client-server API, POST /_matrix/media/v3/upload."""
        stored = await self.repository.upload(request.requester, _upload(request))
        self.thumbnails.schedule_generation(stored)
        return UploadResponse(stored.uri)

    @route("POST", "/_matrix/media/v1/create", auth=USER_OR_GUEST, rate="media_create")
    async def create_content(self, request: CreateContentRequest) -> UploadResponse:
        """Spec: client-server API, POST /_matrix/media/v1/create."""
        created = await self.repository.create(request.requester)
        return UploadResponse(created.uri, created.expires_ms)

    @route("PUT", "/_matrix/media/v3/upload/{server_name}/{media_id}", auth=USER_OR_GUEST)
    async def upload_content_to_mxc(self, request: UploadContentToMxcRequest) -> Empty:
        """Spec: client-server API, PUT /_matrix/media/v3/upload/{serverName}/{mediaId}."""
        origin, media_id = parse_address(request.server_name, request.media_id)
        if origin != self.server_name:
            raise NotFound("The MXC URI is on another server")
        stored = await self.repository.upload_to(request.requester, media_id, _upload(request))
        self.thumbnails.schedule_generation(stored)
        return Empty()


def _upload(request: UploadContentRequest | UploadContentToMxcRequest) -> Upload:
    return Upload(
        parts=request.parts,
        content_type=request.content_type,
        name=request.filename,
        declared_bytes=request.content_length,
    )
