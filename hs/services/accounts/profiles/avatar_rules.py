"""The configured limits on the size and content type of avatars."""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.errors import Forbidden
from hs.core.ids import ServerName
from hs.storage.database import Database
from hs.storage.media import media

AVATAR_URL: Final = "avatar_url"


@attrs.frozen(eq=False)
class AvatarRules:
    """The check of avatars against the media stored on this server."""

    _database: Database
    _server_name: ServerName
    _max_bytes: int | None = None
    _types: tuple[str, ...] | None = None

    async def check_content(self, content: Mapping[str, Any]) -> None:
        """Check the avatar in a profile or in the content of a member event, if it has one.

        Raises: Forbidden.
        """
        url = content.get(AVATAR_URL)
        if isinstance(url, str) and url:
            await self.check(url)

    async def check(self, url: str) -> None:
        """Reject an avatar that is too large, of another type, or unknown. Raises: Forbidden."""
        if self._max_bytes is None and self._types is None:
            return
        origin, _, media_id = url.removeprefix("mxc://").partition("/")
        record = None
        if url.startswith("mxc://") and media_id:
            record = await self._database.read(media.get, origin, media_id)
        if record is None or record.location is None:
            raise Forbidden("The avatar must be media that is stored on this server")
        if self._max_bytes is not None and record.size_bytes > self._max_bytes:
            raise Forbidden(f"Avatars must be {self._max_bytes} bytes or less")
        content_type = record.content_type.partition(";")[0].strip().lower()
        if self._types is not None and content_type not in self._types:
            raise Forbidden(f"Avatars must be of type {', '.join(self._types)}")
