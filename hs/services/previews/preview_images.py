"""Images of previews, which are stored in the media repository and shared by equal content."""

import hashlib
import logging

import attrs

from hs.core.errors import MatrixError
from hs.core.ids import ServerName
from hs.lib.clock import Clock
from hs.services.media.repository import MediaRepository
from hs.services.media.thumbnails import Thumbnails
from hs.services.previews.opengraph import Properties
from hs.services.previews.preview_fetcher import PreviewFetcher, content_type_of
from hs.storage.database import Database
from hs.storage.media import url_previews
from hs.storage.media.media import Media

IMAGE_S = 10.0
# Clients show previews for longer than the server caches them.
UNUSED_LIFE_MS = 7 * 86_400_000

log = logging.getLogger(__name__)


@attrs.frozen
class PreviewImage:
    """An image in the media repository."""

    uri: str
    content_type: str
    width: int
    height: int
    size_bytes: int

    @property
    def properties(self) -> Properties:
        """The properties of the preview that describe the image."""
        return {
            "og:image": self.uri,
            "og:image:type": self.content_type,
            "og:image:width": self.width,
            "og:image:height": self.height,
            "matrix:image:size": self.size_bytes,
        }


@attrs.frozen(eq=False)
class PreviewImages:
    """The fetcher and store of preview images; images that cannot be decoded are discarded."""

    _fetcher: PreviewFetcher
    _repository: MediaRepository
    _thumbnails: Thumbnails
    _database: Database
    _clock: Clock
    _max_bytes: int

    async def fetch(self, url: str) -> PreviewImage | None:
        """Fetch and store an image; return None if that fails."""
        try:
            answer = await self._fetcher.fetch(
                url, "image/*", timeout_s=IMAGE_S, max_bytes=self._max_bytes
            )
        except MatrixError as error:
            log.debug("fetching a preview image failed: %s", error)
            return None
        content_type, _ = content_type_of(answer)
        if not content_type.startswith("image/"):
            return None
        return await self.store(answer.body, content_type, None)

    async def store(
        self, content: bytes, content_type: str, name: str | None
    ) -> PreviewImage | None:
        """Store an image; return None if it is not an image, too large, or quarantined."""
        sha256, now_ms = hashlib.sha256(content).hexdigest(), self._clock.now_ms()
        existing = await self._database.write(url_previews.find_image, sha256, now_ms)
        if existing is not None and existing.location is not None:
            return None if existing.quarantined_by is not None else await self._described(existing)
        stored = await self._repository.store(content, content_type, name or None, None)
        image = await self._described(stored)
        if image is None:
            await self._repository.delete(ServerName(stored.origin), stored.media_id)
        else:
            await self._database.write(url_previews.put_image, sha256, stored, now_ms)
        return image

    async def delete_unused(self) -> None:
        """Delete images that no preview has used for UNUSED_LIFE_MS."""
        before_ms = self._clock.now_ms() - UNUSED_LIFE_MS
        for origin, media_id in await self._database.write(
            url_previews.delete_unused_images, before_ms
        ):
            await self._repository.delete(ServerName(origin), media_id)

    async def _described(self, stored: Media) -> PreviewImage | None:
        assert stored.location is not None
        try:
            picture = await self._thumbnails.picture_of(stored.location)
        except MatrixError as error:
            log.debug("a preview image cannot be decoded: %s", error)
            return None
        return PreviewImage(
            stored.uri, picture.content_type, picture.width, picture.height, stored.size_bytes
        )
