"""Downloading media and thumbnails: with a token, and in the old way without one."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Literal

import attrs
import trio

from hs.apis.media.serving import Conditions, ServedFile, serve
from hs.apis.web.auth import NONE, USER_OR_GUEST
from hs.apis.web.drain import Drain
from hs.apis.web.render import Response
from hs.apis.web.request import header, path, query
from hs.apis.web.route import route
from hs.core.errors import InvalidParam, NotFound, NotYetUploaded
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.services.media.media_names import parse_address
from hs.services.media.repository import Media, MediaRepository
from hs.services.media.thumbnail_sizes import Wanted
from hs.services.media.thumbnails import Shown, Thumbnails

DEFAULT_WAIT_MS = 20_000


@attrs.frozen
class Download:
    """Ask for the content of an address. Redirects are never given, whether allowed or not."""

    server_name: str = path()
    media_id: str = path()
    file_name: str = path(default="")
    allow_remote: bool = query(default=True)
    allow_redirect: bool = query(default=False)
    timeout_ms: int = query(default=DEFAULT_WAIT_MS)
    range: str | None = header("range", default=None)
    if_range: str | None = header("if-range", default=None)
    if_none_match: str | None = header("if-none-match", default=None)


@attrs.frozen
class AskThumbnail:
    """Ask for a smaller picture of the content."""

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


@attrs.frozen
class AskLimits:
    """Ask what may be uploaded."""

    requester: Requester


@attrs.frozen
class MediaDownloadApi:
    """The paths that give content."""

    repository: MediaRepository
    thumbnails: Thumbnails
    server_name: ServerName
    max_upload_size: int
    drain: Drain

    @route(
        "GET",
        "/_matrix/client/v1/media/download/{server_name}/{media_id}/{file_name}",
        auth=USER_OR_GUEST,
        waits=True,
        also=["/_matrix/client/v1/media/download/{server_name}/{media_id}"],
    )
    async def download(self, request: Download) -> Response:
        """Spec: client-server API, GET /_matrix/client/v1/media/download/…."""
        return await self._download(request, has_token=True)

    @route(
        "GET",
        "/_matrix/media/v3/download/{server_name}/{media_id}/{file_name}",
        auth=NONE,
        waits=True,
        also=[
            "/_matrix/media/v3/download/{server_name}/{media_id}",
            "/_matrix/media/v1/download/{server_name}/{media_id}/{file_name}",
            "/_matrix/media/v1/download/{server_name}/{media_id}",
        ],
    )
    async def download_openly(self, request: Download) -> Response:
        """Spec: client-server API, GET /_matrix/media/v3/download/… (deprecated)."""
        return await self._download(request, has_token=False)

    @route(
        "GET",
        "/_matrix/client/v1/media/thumbnail/{server_name}/{media_id}",
        auth=USER_OR_GUEST,
        waits=True,
    )
    async def thumbnail(self, request: AskThumbnail) -> Response:
        """Spec: client-server API, GET /_matrix/client/v1/media/thumbnail/…."""
        return await self._thumbnail(request, has_token=True)

    @route(
        "GET",
        "/_matrix/media/v3/thumbnail/{server_name}/{media_id}",
        auth=NONE,
        waits=True,
        also=["/_matrix/media/v1/thumbnail/{server_name}/{media_id}"],
    )
    async def thumbnail_openly(self, request: AskThumbnail) -> Response:
        """Spec: client-server API, GET /_matrix/media/v3/thumbnail/… (deprecated)."""
        return await self._thumbnail(request, has_token=False)

    @route(
        "GET",
        "/_matrix/client/v1/media/config",
        auth=USER_OR_GUEST,
        also=["/_matrix/media/v3/config", "/_matrix/media/v1/config"],
    )
    async def limits(self, request: AskLimits) -> dict[str, int]:
        """Spec: client-server API, GET /_matrix/client/v1/media/config."""
        return {"m.upload.size": self.max_upload_size}

    async def _download(self, request: Download, *, has_token: bool) -> Response:
        found = await self._find(request, has_token=has_token)
        assert found.location is not None
        size = await self.repository.contents.ensure(found.location)
        file = ServedFile(
            content_type=found.content_type,
            size_bytes=size,
            name=request.file_name or found.upload_name,
            tag=found.media_id,
            read=partial(self.repository.contents.folder.read, found.location),
            is_public=not has_token,
        )
        return serve(file, _conditions(request))

    async def _thumbnail(self, request: AskThumbnail, *, has_token: bool) -> Response:
        if request.width <= 0 or request.height <= 0:
            raise InvalidParam("width and height must be more than 0")
        wanted = Wanted(request.width, request.height, request.method, request.animated)
        found = await self._find(request, has_token=has_token)
        shown = await self.thumbnails.find(found, wanted)
        ending = shown.content_type.rpartition("/")[2]
        file = ServedFile(
            content_type=shown.content_type,
            size_bytes=shown.size_bytes,
            name=f"thumbnail.{ending}",
            tag=f"{found.media_id}-{shown.location.rpartition('/')[2]}",
            read=partial(self._read, shown),
            is_public=not has_token,
        )
        return serve(file, _conditions(request))

    async def _find(self, request: Download | AskThumbnail, *, has_token: bool) -> Media:
        """Find what is asked for; whoever waits for an upload is told to come again at the end."""
        origin, media_id = self._address(request)
        find = partial(self.repository.find, origin, media_id, has_token=has_token)
        try:
            return await find(0)
        except NotYetUploaded:
            if request.timeout_ms <= 0:
                raise
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at, self.drain.started, nursery.cancel_scope)
            found = await find(request.timeout_ms)
            nursery.cancel_scope.cancel()
            return found
        raise NotYetUploaded("The server is about to be restarted; ask again")

    def _address(self, request: Download | AskThumbnail) -> tuple[ServerName, str]:
        origin, media_id = parse_address(request.server_name, request.media_id)
        if origin != self.server_name and not request.allow_remote:
            raise NotFound("The media are not of this server")
        return origin, media_id

    def _read(self, shown: Shown, start: int, length: int) -> AsyncIterator[bytes]:
        if shown.content is None:
            return self.repository.contents.folder.read(shown.location, start, length)
        return _of_bytes(shown.content[start : start + length])


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _of_bytes(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _conditions(request: Download | AskThumbnail) -> Conditions:
    return Conditions(request.range, request.if_range, request.if_none_match)
