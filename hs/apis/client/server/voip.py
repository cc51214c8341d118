"""TURN servers for voice and video calls."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.core.requester import Requester
from hs.services.accounts.sessions.turn_credentials import TurnCredentials, TurnServers


@attrs.frozen
class GetTurnServerRequest:
    """GET /voip/turnServer."""

    requester: Requester


@attrs.frozen
class TurnServerApi:
    """The endpoint of TURN credentials."""

    turn: TurnServers

    @route("GET", "/_matrix/client/v3/voip/turnServer", auth=USER_OR_GUEST)
    async def get_turn_server(self, request: GetTurnServerRequest) -> TurnCredentials:
        """Spec: client-server API, Voice over IP.

        All keys of the response are required, so it cannot be empty on a server without TURN.
        """
        credentials = self.turn.credentials_for(request.requester)
        if credentials is None:
            raise NotFound("No TURN server is available to you")
        return credentials
