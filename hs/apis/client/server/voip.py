"""TURN servers for calls."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.core.requester import Requester
from hs.services.accounts.sessions.turn_credentials import TurnCredentials, TurnServers


@attrs.frozen
class TurnRequest:
    """Who wants to call."""

    requester: Requester


@attrs.frozen
class VoipApi:
    """`/voip/turnServer`."""

    turn: TurnServers

    @route("GET", "/_matrix/client/v3/voip/turnServer", auth=USER_OR_GUEST)
    async def turn_server(self, request: TurnRequest) -> TurnCredentials:
        """Spec: client-server API, Voice over IP.

        Every member of the answer is required, so a server without TURN has none to give.
        """
        credentials = self.turn.credentials_for(request.requester)
        if credentials is None:
            raise NotFound("This server offers no TURN server to you")
        return credentials
