"""The rooms that the requester shares with another user."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.rooms.read.mutual_rooms import MutualRooms, MutualRoomsPage


@attrs.frozen
class GetMutualRoomsRequest:
    """GET /mutual_rooms."""

    requester: Requester
    user_id: str = query()
    start: str | None = query(name="from", default=None)


@attrs.frozen
class UnstableGetMutualRoomsRequest:
    """GET /user/mutual_rooms at the unstable path."""

    requester: Requester
    user_id: str = query()
    start: str | None = query(name="batch_token", default=None)


@attrs.frozen
class MutualRoomsApi:
    """Endpoints of shared rooms."""

    rooms: MutualRooms

    @route("GET", "/_matrix/client/v1/mutual_rooms", auth=USER)
    async def get_mutual_rooms(self, request: GetMutualRoomsRequest) -> MutualRoomsPage:
        """Spec: client-server API, Mutual Rooms."""
        return await self.rooms.page(request.requester, request.user_id, request.start)

    @route("GET", "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms", auth=USER)
    async def unstable_get_mutual_rooms(
        self, request: UnstableGetMutualRoomsRequest
    ) -> dict[str, Any]:
        """Spec: MSC2666."""
        page = await self.rooms.page(request.requester, request.user_id, request.start)
        response: dict[str, Any] = {"joined": page.joined, "count": page.count}
        if page.next_batch is not None:
            response["next_batch_token"] = response["next_batch"] = page.next_batch
        return response
