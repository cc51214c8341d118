"""The user directory."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.request import body
from hs.apis.web.route import always, route
from hs.core.requester import Requester
from hs.services.directory.user_directory import DEFAULT_RESULTS, UserDirectory


@attrs.frozen
class SearchUserDirectoryRequest:
    """POST /user_directory/search."""

    requester: Requester
    search_term: str = body()
    limit: int = body(default=DEFAULT_RESULTS)


@attrs.frozen
class UserDirectoryApi:
    """The endpoint of the user directory."""

    directory: UserDirectory

    @route(
        "POST",
        "/_matrix/client/v3/user_directory/search",
        auth=USER,
        rate="user_directory",
        fresh=always,
        cancel_on_disconnect=True,
    )
    async def search_user_directory(self, request: SearchUserDirectoryRequest) -> dict[str, Any]:
        """Spec: client-server API, User Directory."""
        return await self.directory.search(request.requester, request.search_term, request.limit)
