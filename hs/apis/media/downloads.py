"""Downloading media and thumbnails, authenticated or by the deprecated endpoints."""

from functools import partial
from typing import Literal

import attrs

from hs.apis.media.lookup import find_until_drained, read_thumbnail
from hs.apis.media.serving import RangeConditions, ServedFile, serve
from hs.apis.web.auth import NONE, USER_OR_GUEST
from hs.apis.web.drain import Drain
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Response
from hs.apis.web.request import header, path, query, remote_address
from hs.apis.web.route import route
from hs.core.errors import InvalidParam, NotFound
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.lib.client_sources import source_of
from hs.services.media.media_names import parse_address
from hs.services.media.repository import Media, MediaRepository
from hs.services.media.thumbnail_sizes import RequestedThumbnail
from hs.services.media.thumbnails import Thumbnails

DEFAULT_WAIT_MS = 20_000


@attrs.frozen
class DownloadRequest:
    """GET /media/download/{serverName}/{mediaId}/{fileName}; the response is never a redirect."""

    server_name: str = path()
    media_id: str = path()
    file_name: str = path(default="")
    allow_remote: bool = query(default=True)
    allow_redirect: bool = query(default=False)
    timeout_ms: int = query(default=DEFAULT_WAIT_MS)
    range: str | None = header("range", default=None)
    if_range: str | None = header("if-range", default=None)
    if_none_match: str | None = header("if-none-match", default=None)
    client_ip: str = remote_address()


@attrs.frozen
class ThumbnailRequest:
    """GET /media/thumbnail/{serverName}/{mediaId}; the response is never a redirect."""

    server_name: str = path()
    media_id: str = path()
    width: int = query()
    height: int = query()
    method: Literal["crop", "scale"] = query(default="scale")
    animated: bool = query(default=False)
    allow_remote: bool = query(default=True)
    allow_redirect: bool = query(default=False)
    timeout_ms: int = query(default=DEFAULT_WAIT_MS)
    range: str | None = header("range", default=None)
    if_range: str | None = header("if-range", default=None)
    if_none_match: str | None = header("if-none-match", default=None)
    client_ip: str = remote_address()


@attrs.frozen
class GetMediaConfigRequest:
    """GET /media/config."""

    requester: Requester


@attrs.frozen
class MediaDownloadApi:
    """Endpoints that download media."""

    repository: MediaRepository
    thumbnails: Thumbnails
    server_name: ServerName
    max_upload_size: int
    drain: Drain

    @route(
        "GET",
        "/_matrix/client/v1/media/download/{server_name}/{media_id}/{file_name}",
        auth=USER_OR_GUEST,
        work=WorkClass.MEDIA,
        cancel_on_disconnect=True,
        extra_paths=["/_matrix/client/v1/media/download/{server_name}/{media_id}"],
    )
    async def download(self, request: DownloadRequest) -> Response:
        """Spec: client-server API, GET /_matrix/client/v1/media/download/…."""
        return await self._download(request, has_token=True)

    @route(
        "GET",
        "/_matrix/media/v3/download/{server_name}/{media_id}/{file_name}",
        auth=NONE,
        work=WorkClass.MEDIA,
        cancel_on_disconnect=True,
        extra_paths=[
            "/_matrix/media/v3/download/{server_name}/{media_id}",
            "/_matrix/media/v1/download/{server_name}/{media_id}/{file_name}",
            "/_matrix/media/v1/download/{server_name}/{media_id}",
        ],
    )
    async def download_unauthenticated(self, request: DownloadRequest) -> Response:
        """Spec: client-server API, GET /_matrix/media/v3/download/… (deprecated)."""
        return await self._download(request, has_token=False)

    @route(
        "GET",
        "/_matrix/client/v1/media/thumbnail/{server_name}/{media_id}",
        auth=USER_OR_GUEST,
        work=WorkClass.MEDIA,
        cancel_on_disconnect=True,
    )
    async def get_thumbnail(self, request: ThumbnailRequest) -> Response:
        """Spec: client-server API, GET /_matrix/client/v1/media/thumbnail/…."""
        return await self._thumbnail(request, has_token=True)

    @route(
        "GET",
        "/_matrix/media/v3/thumbnail/{server_name}/{media_id}",
        auth=NONE,
        work=WorkClass.MEDIA,
        cancel_on_disconnect=True,
        extra_paths=["/_matrix/media/v1/thumbnail/{server_name}/{media_id}"],
    )
    async def get_thumbnail_unauthenticated(self, request: ThumbnailRequest) -> Response:
        """Spec: client-server API, GET /_matrix/media/v3/thumbnail/… (deprecated)."""
        return await self._thumbnail(request, has_token=False)

    @route(
        "GET",
        "/_matrix/client/v1/media/config",
        auth=USER_OR_GUEST,
        extra_paths=["/_matrix/media/v3/config", "/_matrix/media/v1/config"],
    )
    async def get_media_config(self, request: GetMediaConfigRequest) -> dict[str, int]:
        """Spec: client-server API, GET /_matrix/client/v1/media/config."""
        return {"m.upload.size": self.max_upload_size}

    async def _download(self, request: DownloadRequest, *, has_token: bool) -> Response:
        media = await self._find(request, has_token=has_token)
        assert media.location is not None
        size = await self.repository.contents.ensure(media.location)
        file = ServedFile(
            content_type=media.content_type,
            size_bytes=size,
            name=request.file_name or media.upload_name,
            tag=media.media_id,
            read=partial(self.repository.contents.folder.read, media.location),
            is_public=not has_token,
        )
        return serve(file, _conditions(request))

    async def _thumbnail(self, request: ThumbnailRequest, *, has_token: bool) -> Response:
        if request.width <= 0 or request.height <= 0:
            raise InvalidParam("width and height must be positive")
        size = RequestedThumbnail(request.width, request.height, request.method, request.animated)
        media = await self._find(request, has_token=has_token)
        thumbnail = await self.thumbnails.find(media, size)
        extension = thumbnail.content_type.rpartition("/")[2]
        file = ServedFile(
            content_type=thumbnail.content_type,
            size_bytes=thumbnail.size_bytes,
            name=f"thumbnail.{extension}",
            tag=f"{media.media_id}-{thumbnail.location.rpartition('/')[2]}",
            read=partial(read_thumbnail, self.repository, thumbnail),
            is_public=not has_token,
        )
        return serve(file, _conditions(request))

    async def _find(self, request: DownloadRequest | ThumbnailRequest, *, has_token: bool) -> Media:
        """Return the media, waiting for the upload if the MXC URI was only created so far.

        Raises: NotFound; NotYetUploaded after the timeout, or as soon as the process drains.
        """
        origin, media_id = self._parse_address(request)
        client = source_of(request.client_ip)
        find = partial(self.repository.find, origin, media_id, has_token=has_token, client=client)
        return await find_until_drained(find, request.timeout_ms, self.drain)

    def _parse_address(self, request: DownloadRequest | ThumbnailRequest) -> tuple[ServerName, str]:
        origin, media_id = parse_address(request.server_name, request.media_id)
        if origin != self.server_name and not request.allow_remote:
            raise NotFound("The media is on another server")
        return origin, media_id


def _conditions(request: DownloadRequest | ThumbnailRequest) -> RangeConditions:
    return RangeConditions(request.range, request.if_range, request.if_none_match)
