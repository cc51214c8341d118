"""Images of previews: fetched, and stored in the media repository like any other media."""

import hashlib
import logging

import attrs

from hs.core.errors import MatrixError
from hs.core.ids import ServerName
from hs.lib.clock import Clock
from hs.services.media.repository import MediaRepository
from hs.services.media.thumbnails import Thumbnails
from hs.services.previews.opengraph import Properties
from hs.services.previews.preview_fetcher import Fetcher, content_type_of
from hs.storage.database import Database
from hs.storage.media import url_previews
from hs.storage.media.media import Media

IMAGE_S = 10.0
# Clients show a preview longer than we keep it.
KEPT_MS = 7 * 86_400_000

log = logging.getLogger(__name__)


@attrs.frozen
class StoredImage:
    """An image that the media repository has."""

    uri: str
    content_type: str
    width: int
    height: int
    size_bytes: int

    @property
    def properties(self) -> Properties:
        return {
            "og:image": self.uri,
            "og:image:type": self.content_type,
            "og:image:width": self.width,
            "og:image:height": self.height,
            "matrix:image:size": self.size_bytes,
        }


@attrs.frozen(eq=False)
class PreviewImages:
    """Fetches and stores images; what cannot be decoded is none."""

    _fetcher: Fetcher
    _repository: MediaRepository
    _thumbnails: Thumbnails
    _database: Database
    _clock: Clock
    _max_bytes: int

    async def fetch(self, url: str) -> StoredImage | None:
        """Fetch an image and store it; None if that brings none."""
        try:
            answer = await self._fetcher.fetch(
                url, "image/*", timeout_s=IMAGE_S, max_bytes=self._max_bytes
            )
        except MatrixError as error:
            log.debug("the image of a preview cannot be fetched: %s", error)
            return None
        kind, _ = content_type_of(answer)
        if not kind.startswith("image/"):
            return None
        return await self.store(answer.body, kind, None)

    async def store(
        self, content: bytes, content_type: str, name: str | None
    ) -> StoredImage | None:
        """Store an image; None if it is none, or too large to be shown."""
        sha256, now_ms = hashlib.sha256(content).hexdigest(), self._clock.now_ms()
        known = await self._database.write(url_previews.use_image, sha256, now_ms)
        if known is not None and known.location is not None:
            return None if known.quarantined_by is not None else await self._shown(known)
        stored = await self._repository.store(content, content_type, name or None, None)
        shown = await self._shown(stored)
        if shown is None:
            await self._repository.delete(ServerName(stored.origin), stored.media_id)
        else:
            await self._database.write(url_previews.put_image, sha256, stored, now_ms)
        return shown

    async def forget_unused(self) -> None:
        """Delete images that no preview has shown for long."""
        before_ms = self._clock.now_ms() - KEPT_MS
        for origin, media_id in await self._database.write(url_previews.forget_images, before_ms):
            await self._repository.delete(ServerName(origin), media_id)

    async def _shown(self, stored: Media) -> StoredImage | None:
        assert stored.location is not None
        try:
            picture = await self._thumbnails.picture_of(stored.location)
        except MatrixError as error:
            log.debug("the image of a preview is none: %s", error)
            return None
        return StoredImage(
            stored.uri, picture.content_type, picture.width, picture.height, stored.size_bytes
        )
