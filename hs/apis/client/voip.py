"""TURN servers for calls."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.accounts.turn import TurnCredentials, TurnServers


@attrs.frozen
class TurnRequest:
    """Who wants to call."""

    requester: Requester


@attrs.frozen
class VoipApi:
    """`/voip/turnServer`."""

    turn: TurnServers

    @route("GET", "/_matrix/client/v3/voip/turnServer", auth=USER_OR_GUEST)
    async def turn_server(self, request: TurnRequest) -> TurnCredentials | Empty:
        """Spec: client-server API, Voice over IP.

        A server without TURN answers `{}`, which clients take for what it means.
        """
        return self.turn.credentials_for(request.requester) or Empty()
