"""Typing notifications."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.ephemeral.typing_notifications import TypingService

DEFAULT_TIMEOUT_MS = 30_000


@attrs.frozen
class SetTypingRequest:
    """PUT /rooms/{roomId}/typing/{userId}."""

    requester: Requester
    room_id: RoomID = path()
    user_id: UserID = path()
    typing: bool = body()
    timeout: int = body(default=DEFAULT_TIMEOUT_MS)


@attrs.frozen
class TypingApi:
    """The endpoint of typing notifications."""

    typing: TypingService

    @route(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
        auth=USER_OR_GUEST,
    )
    async def set_typing(self, request: SetTypingRequest) -> Empty:
        """Spec: client-server API, Typing Notifications."""
        timeout_ms = request.timeout if request.typing else 0
        await self.typing.set_typing(
            request.requester, request.room_id, request.user_id, timeout_ms
        )
        return Empty()
