"""What pictures users may take as avatars, where the administrator bounds them."""

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
    """Checks avatars by what is stored here of them."""

    _database: Database
    _server_name: ServerName
    _max_bytes: int | None = None
    _types: tuple[str, ...] | None = None

    async def check_content(self, content: Mapping[str, Any]) -> None:
        """Check the avatar in a profile or member event, if there is one. Raises: Forbidden."""
        url = content.get(AVATAR_URL)
        if isinstance(url, str) and url:
            await self.check(url)

    async def check(self, url: str) -> None:
        """Refuse what is too large, of another type, or not known here. Raises: Forbidden."""
        if self._max_bytes is None and self._types is None:
            return
        origin, _, media_id = url.removeprefix("mxc://").partition("/")
        found = None
        if url.startswith("mxc://") and media_id:
            found = await self._database.read(media.get, origin, media_id)
        if found is None or found.location is None:
            raise Forbidden("The avatar is not known to this server, so it cannot be checked")
        if self._max_bytes is not None and found.size_bytes > self._max_bytes:
            raise Forbidden(f"Avatars must be {self._max_bytes} bytes or less")
        kind = found.content_type.partition(";")[0].strip().lower()
        if self._types is not None and kind not in self._types:
            raise Forbidden(f"Avatars must be of type {', '.join(self._types)}")
