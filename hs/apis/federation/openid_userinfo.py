"""The owner of an OpenID token, for services to which a user has presented it."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.errors import MissingToken
from hs.core.ids import UserID
from hs.services.accounts.sessions.openid_tokens import OpenIdTokens


@attrs.frozen
class OpenIdUserInfoRequest:
    """GET /openid/userinfo."""

    access_token: str | None = query(default=None)


@attrs.frozen
class OpenIdUserInfoResponse:
    """The owner of the token."""

    sub: UserID


@attrs.frozen
class OpenIdUserInfoApi:
    """The endpoint of OpenID user information."""

    openid: OpenIdTokens

    @route("GET", "/_matrix/federation/v1/openid/userinfo", auth=NONE)
    async def get_openid_userinfo(self, request: OpenIdUserInfoRequest) -> OpenIdUserInfoResponse:
        """Spec: server-server API, OpenID."""
        if request.access_token is None:
            raise MissingToken("Missing access_token")
        return OpenIdUserInfoResponse(await self.openid.user_of(request.access_token))
