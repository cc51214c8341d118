"""Account data, of the account and of rooms."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import path, whole_body
from hs.apis.web.route import always, route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.accounts.account_data.account_data import AccountData

GLOBAL = "/_matrix/client/v3/user/{user_id}/account_data/{type}"
ROOM = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}"

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc3391"


@attrs.frozen
class GetRequest:
    """Which piece."""

    requester: Requester
    user_id: UserID = path()
    type: str = path()


@attrs.frozen
class PutRequest:
    """Which piece, and its content."""

    requester: Requester
    user_id: UserID = path()
    type: str = path()
    content: JsonObject = whole_body()


@attrs.frozen
class GetInRoomRequest:
    """Which piece of which room."""

    requester: Requester
    user_id: UserID = path()
    room_id: RoomID = path()
    type: str = path()


@attrs.frozen
class PutInRoomRequest:
    """Which piece of which room, and its content."""

    requester: Requester
    user_id: UserID = path()
    room_id: RoomID = path()
    type: str = path()
    content: JsonObject = whole_body()


@attrs.frozen
class AccountDataApi:
    """`/user/{userId}/…/account_data`."""

    account_data: AccountData

    @route("GET", GLOBAL, auth=USER_OR_GUEST, fresh=always)
    async def get(self, request: GetRequest) -> bytes:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        return await self.account_data.get(request.user_id, None, request.type)

    @route("PUT", GLOBAL, auth=USER_OR_GUEST)
    async def put(self, request: PutRequest) -> Empty:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        await self.account_data.put(request.user_id, None, request.type, request.content)
        return Empty()

    @route("GET", ROOM, auth=USER_OR_GUEST, fresh=always)
    async def get_in_room(self, request: GetInRoomRequest) -> bytes:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        return await self.account_data.get(request.user_id, request.room_id, request.type)

    @route("DELETE", f"{UNSTABLE}/user/{{user_id}}/account_data/{{type}}", auth=USER_OR_GUEST)
    async def delete(self, request: GetRequest) -> Empty:
        """MSC3391."""
        check_own(request.requester, request.user_id)
        await self.account_data.delete(request.user_id, None, request.type)
        return Empty()

    @route(
        "DELETE",
        f"{UNSTABLE}/user/{{user_id}}/rooms/{{room_id}}/account_data/{{type}}",
        auth=USER_OR_GUEST,
    )
    async def delete_in_room(self, request: GetInRoomRequest) -> Empty:
        """MSC3391."""
        check_own(request.requester, request.user_id)
        await self.account_data.delete(request.user_id, request.room_id, request.type)
        return Empty()

    @route("PUT", ROOM, auth=USER_OR_GUEST)
    async def put_in_room(self, request: PutInRoomRequest) -> Empty:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        await self.account_data.put(request.user_id, request.room_id, request.type, request.content)
        return Empty()


def check_own(requester: Requester, user_id: UserID) -> None:
    """Refuse what is not the requester's. Raises: Forbidden."""
    if requester.user_id != user_id:
        raise Forbidden("This belongs to somebody else")
