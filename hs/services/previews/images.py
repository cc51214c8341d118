"""Images of previews: fetched, and stored in the media repository like any other media."""

import logging

import attrs

from hs.core.errors import MatrixError
from hs.core.ids import ServerName
from hs.services.media.repository import MediaRepository
from hs.services.media.thumbnails import Thumbnails
from hs.services.previews.fetching import Fetcher, content_type_of
from hs.services.previews.opengraph import Properties

IMAGE_S = 10.0

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
    _max_bytes: int

    async def fetch(self, url: str) -> StoredImage | None:
        """Fetch an image and store it; None if that brings none."""
        try:
            answer = await self._fetcher.fetch(
                url, "image/*", timeout_s=IMAGE_S, max_bytes=self._max_bytes
            )
        except MatrixError as error:
            log.info("the image of a preview cannot be fetched: %s", error)
            return None
        kind, _ = content_type_of(answer)
        if not kind.startswith("image/"):
            return None
        return await self.store(answer.body, kind, None)

    async def store(
        self, content: bytes, content_type: str, name: str | None
    ) -> StoredImage | None:
        """Store an image; None if it is none, or too large to be shown."""
        stored = await self._repository.store(content, content_type, name or None, None)
        assert stored.location is not None
        try:
            picture = await self._thumbnails.picture_of(stored.location)
        except MatrixError as error:
            log.info("the image of a preview is none: %s", error)
            await self._repository.delete(ServerName(stored.origin), stored.media_id)
            return None
        return StoredImage(
            stored.uri, picture.content_type, picture.width, picture.height, stored.size_bytes
        )
