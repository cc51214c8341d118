"""Previews of links."""

import attrs

from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.previews.preview_cache import Previews


@attrs.frozen
class PreviewRequest:
    """Which link; `ts` asks for an old state of it, and the newest is given all the same."""

    requester: Requester
    url: str = query()
    ts: int | None = query(default=None)


@attrs.frozen
class PreviewApi:
    """`…/preview_url`, also at its path of before authenticated media."""

    previews: Previews

    @route("GET", "/_matrix/client/v1/media/preview_url", rate="url_preview")
    @route("GET", "/_matrix/media/v3/preview_url", rate="url_preview")
    async def preview(self, request: PreviewRequest) -> bytes:
        """Spec: client-server API, Content repository."""
        return await self.previews.preview(request.url)
