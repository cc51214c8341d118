"""Room tags."""

from typing import Any

import attrs

from hs.apis.client.accounts.account_data import check_own
from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import path, whole_body
from hs.apis.web.route import always, route
from hs.core.canonical_json import JsonObject
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.accounts.account_data.account_data import AccountDataService

TAGS = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags"


@attrs.frozen
class GetRoomTagsRequest:
    """GET /user/{userId}/rooms/{roomId}/tags."""

    requester: Requester
    user_id: UserID = path()
    room_id: RoomID = path()


@attrs.frozen
class SetRoomTagRequest:
    """PUT /user/{userId}/rooms/{roomId}/tags/{tag}."""

    requester: Requester
    user_id: UserID = path()
    room_id: RoomID = path()
    tag: str = path()
    content: JsonObject = whole_body(factory=dict)


@attrs.frozen
class DeleteRoomTagRequest:
    """DELETE /user/{userId}/rooms/{roomId}/tags/{tag}."""

    requester: Requester
    user_id: UserID = path()
    room_id: RoomID = path()
    tag: str = path()


@attrs.frozen
class TagsApi:
    """Endpoints of room tags."""

    account_data: AccountDataService

    @route("GET", TAGS, auth=USER_OR_GUEST, fresh=always)
    async def get_room_tags(self, request: GetRoomTagsRequest) -> dict[str, Any]:
        """Spec: client-server API, Room Tagging."""
        check_own(request.requester, request.user_id)
        return {"tags": await self.account_data.tags(request.user_id, request.room_id)}

    @route("PUT", TAGS + "/{tag}", auth=USER_OR_GUEST)
    async def set_room_tag(self, request: SetRoomTagRequest) -> Empty:
        """Spec: client-server API, Room Tagging."""
        check_own(request.requester, request.user_id)
        await self.account_data.put_tag(
            request.user_id, request.room_id, request.tag, request.content
        )
        return Empty()

    @route("DELETE", TAGS + "/{tag}", auth=USER_OR_GUEST)
    async def delete_room_tag(self, request: DeleteRoomTagRequest) -> Empty:
        """Spec: client-server API, Room Tagging."""
        check_own(request.requester, request.user_id)
        await self.account_data.remove_tag(request.user_id, request.room_id, request.tag)
        return Empty()
