"""Account data, global and per room."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import path, whole_body
from hs.apis.web.route import always, route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.accounts.account_data.account_data import AccountDataService

GLOBAL = "/_matrix/client/v3/user/{user_id}/account_data/{type}"
ROOM = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}"

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc3391"


@attrs.frozen
class GetAccountDataRequest:
    """GET and DELETE of global account data."""

    requester: Requester
    user_id: UserID = path()
    type: str = path()


@attrs.frozen
class SetAccountDataRequest:
    """PUT of global account data."""

    requester: Requester
    user_id: UserID = path()
    type: str = path()
    content: JsonObject = whole_body()


@attrs.frozen
class GetRoomAccountDataRequest:
    """GET and DELETE of account data of a room."""

    requester: Requester
    user_id: UserID = path()
    room_id: RoomID = path()
    type: str = path()


@attrs.frozen
class SetRoomAccountDataRequest:
    """PUT of account data of a room."""

    requester: Requester
    user_id: UserID = path()
    room_id: RoomID = path()
    type: str = path()
    content: JsonObject = whole_body()


@attrs.frozen
class AccountDataApi:
    """Endpoints of account data."""

    account_data: AccountDataService

    @route("GET", GLOBAL, auth=USER_OR_GUEST, fresh=always)
    async def get_account_data(self, request: GetAccountDataRequest) -> bytes:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        return await self.account_data.get(request.user_id, None, request.type)

    @route("PUT", GLOBAL, auth=USER_OR_GUEST)
    async def set_account_data(self, request: SetAccountDataRequest) -> Empty:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        await self.account_data.put(request.user_id, None, request.type, request.content)
        return Empty()

    @route("GET", ROOM, auth=USER_OR_GUEST, fresh=always)
    async def get_room_account_data(self, request: GetRoomAccountDataRequest) -> bytes:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        return await self.account_data.get(request.user_id, request.room_id, request.type)

    @route("DELETE", f"{UNSTABLE}/user/{{user_id}}/account_data/{{type}}", auth=USER_OR_GUEST)
    async def delete_account_data(self, request: GetAccountDataRequest) -> Empty:
        """Spec: MSC3391."""
        check_own(request.requester, request.user_id)
        await self.account_data.delete(request.user_id, None, request.type)
        return Empty()

    @route(
        "DELETE",
        f"{UNSTABLE}/user/{{user_id}}/rooms/{{room_id}}/account_data/{{type}}",
        auth=USER_OR_GUEST,
    )
    async def delete_room_account_data(self, request: GetRoomAccountDataRequest) -> Empty:
        """Spec: MSC3391."""
        check_own(request.requester, request.user_id)
        await self.account_data.delete(request.user_id, request.room_id, request.type)
        return Empty()

    @route("PUT", ROOM, auth=USER_OR_GUEST)
    async def set_room_account_data(self, request: SetRoomAccountDataRequest) -> Empty:
        """Spec: client-server API, Client Config."""
        check_own(request.requester, request.user_id)
        await self.account_data.put(request.user_id, request.room_id, request.type, request.content)
        return Empty()


def check_own(requester: Requester, user_id: UserID) -> None:
    """Raise Forbidden unless the user in the path is the requester."""
    if requester.user_id != user_id:
        raise Forbidden("The user ID in the path must be your own")
