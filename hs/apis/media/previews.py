"""URL previews."""

import attrs

from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.previews.preview_cache import UrlPreviews


@attrs.frozen
class UrlPreviewRequest:
    """GET /preview_url; `ts` is ignored, the response is always the latest preview."""

    requester: Requester
    url: str = query()
    ts: int | None = query(default=None)


@attrs.frozen
class UrlPreviewApi:
    """The endpoint of URL previews, also at its deprecated path."""

    previews: UrlPreviews

    @route("GET", "/_matrix/client/v1/media/preview_url", rate="url_preview")
    @route("GET", "/_matrix/media/v3/preview_url", rate="url_preview")
    async def get_url_preview(self, request: UrlPreviewRequest) -> bytes:
        """Spec: client-server API, Content repository."""
        return await self.previews.preview(request.url, request.requester.user_id)
