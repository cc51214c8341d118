"""Logout."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.accounts.sessions.sessions import Sessions


@attrs.frozen
class LogoutRequest:
    """POST /logout and /logout/all."""

    requester: Requester


@attrs.frozen
class LogoutApi:
    """Endpoints of logout, which locked accounts may use too."""

    sessions: Sessions

    @route("POST", "/_matrix/client/v3/logout", auth=USER_OR_GUEST, allow_locked=True)
    async def logout(self, request: LogoutRequest) -> Empty:
        """Spec: client-server API, Logout."""
        await self.sessions.close(request.requester)
        return Empty()

    @route("POST", "/_matrix/client/v3/logout/all", auth=USER_OR_GUEST, allow_locked=True)
    async def logout_all(self, request: LogoutRequest) -> Empty:
        """Spec: client-server API, Logout."""
        await self.sessions.close_all(request.requester.user_id)
        return Empty()
