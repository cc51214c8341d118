"""OpenID tokens."""

import attrs

from hs.apis.client.accounts.account_data import check_own
from hs.apis.web.request import path
from hs.apis.web.route import route
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.sessions.openid_tokens import OpenIdToken, OpenIdTokens


@attrs.frozen
class OpenIdTokenRequest:
    """POST /user/{userId}/openid/request_token."""

    requester: Requester
    user_id: UserID = path()


@attrs.frozen
class OpenIdApi:
    """The endpoint that issues OpenID tokens."""

    openid: OpenIdTokens

    @route("POST", "/_matrix/client/v3/user/{user_id}/openid/request_token", rate="openid")
    async def request_openid_token(self, request: OpenIdTokenRequest) -> OpenIdToken:
        """Spec: client-server API, OpenID."""
        check_own(request.requester, request.user_id)
        return await self.openid.make_token(request.user_id)
