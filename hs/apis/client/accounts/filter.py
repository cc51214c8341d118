"""Filters stored by clients."""

import attrs

from hs.apis.client.accounts.account_data import check_own
from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.request import path, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.account_data.filters import StoredFilters

FILTERS = "/_matrix/client/v3/user/{user_id}/filter"


@attrs.frozen
class DefineFilterRequest:
    """POST /user/{userId}/filter."""

    requester: Requester
    user_id: UserID = path()
    definition: JsonObject = whole_body()


@attrs.frozen
class GetFilterRequest:
    """GET /user/{userId}/filter/{filterId}."""

    requester: Requester
    user_id: UserID = path()
    filter_id: str = path()


@attrs.frozen
class FilterApi:
    """Endpoints of filters."""

    filters: StoredFilters

    @route("POST", FILTERS, auth=USER_OR_GUEST, max_body_bytes=64 * 1024)
    async def define_filter(self, request: DefineFilterRequest) -> dict[str, str]:
        """Spec: client-server API, Filtering."""
        check_own(request.requester, request.user_id)
        return {"filter_id": await self.filters.add(request.user_id, request.definition)}

    @route("GET", FILTERS + "/{filter_id}", auth=USER_OR_GUEST)
    async def get_filter(self, request: GetFilterRequest) -> bytes:
        """Spec: client-server API, Filtering."""
        check_own(request.requester, request.user_id)
        return await self.filters.definition(request.user_id, request.filter_id)
