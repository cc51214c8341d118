"""The rooms one shares with another user."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.rooms.read.mutual_rooms import MutualPage, MutualRooms


@attrs.frozen
class Ask:
    """With whom."""

    requester: Requester
    user_id: str = query()
    start: str | None = query(name="from", default=None)


@attrs.frozen
class UnstableAsk:
    """With whom."""

    requester: Requester
    user_id: str = query()
    start: str | None = query(name="batch_token", default=None)


@attrs.frozen
class MutualRoomsApi:
    """`/mutual_rooms`."""

    rooms: MutualRooms

    @route("GET", "/_matrix/client/v1/mutual_rooms", auth=USER)
    async def mutual(self, request: Ask) -> MutualPage:
        """Spec: client-server API, Mutual Rooms."""
        return await self.rooms.page(request.requester, request.user_id, request.start)

    @route("GET", "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms", auth=USER)
    async def unstable(self, request: UnstableAsk) -> dict[str, Any]:
        """MSC2666."""
        page = await self.rooms.page(request.requester, request.user_id, request.start)
        answer: dict[str, Any] = {"joined": page.joined, "count": page.count}
        if page.next_batch is not None:
            answer["next_batch_token"] = answer["next_batch"] = page.next_batch
        return answer
