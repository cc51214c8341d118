"""Whom an OpenID token belongs to, for other services that were shown it."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.errors import MissingToken
from hs.core.ids import UserID
from hs.services.accounts.sessions.openid_tokens import OpenId


@attrs.frozen
class UserInfoRequest:
    """The token."""

    access_token: str | None = query(default=None)


@attrs.frozen
class UserInfo:
    """The user who asked for the token."""

    sub: UserID


@attrs.frozen
class OpenIdUserInfoApi:
    """`/openid/userinfo`."""

    openid: OpenId

    @route("GET", "/_matrix/federation/v1/openid/userinfo", auth=NONE)
    async def user_info(self, request: UserInfoRequest) -> UserInfo:
        """Spec: server-server API, OpenID."""
        if request.access_token is None:
            raise MissingToken("access_token is required")
        return UserInfo(await self.openid.user_of(request.access_token))
