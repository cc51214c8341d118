"""The state and the members of rooms."""

from typing import Any, Literal

import attrs
import orjson

from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import path, query
from hs.apis.web.route import always, route
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.read.room_state import MembersRequest, RoomState
from hs.services.rooms.store.memberships import Memberships

Membership = Literal["join", "invite", "knock", "leave", "ban"]


@attrs.frozen
class RoomRequest:
    """GET /rooms/{roomId}/state and /rooms/{roomId}/joined_members."""

    requester: Requester
    room_id: RoomID = path()


@attrs.frozen
class GetStateEventRequest:
    """GET /rooms/{roomId}/state/{eventType}/{stateKey}."""

    requester: Requester
    room_id: RoomID = path()
    event_type: str = path()
    state_key: str = path(default="")
    response_format: Literal["content", "event"] = query(name="format", default="content")


@attrs.frozen
class GetMembersRequest:
    """GET /rooms/{roomId}/members."""

    requester: Requester
    room_id: RoomID = path()
    at: str | None = query(default=None)
    membership: Membership | None = query(default=None)
    not_membership: Membership | None = query(default=None)


@attrs.frozen
class GetJoinedRoomsRequest:
    """GET /joined_rooms."""

    requester: Requester


@attrs.frozen
class MembersResponse:
    """Member events, rendered."""

    chunk: orjson.Fragment


@attrs.frozen
class JoinedMembersResponse:
    """Profiles by user ID."""

    joined: dict[str, dict[str, str | None]]


@attrs.frozen
class JoinedRoomsResponse:
    """The rooms that the requester is joined to."""

    joined_rooms: list[RoomID]


@attrs.frozen
class RoomStateApi:
    """Endpoints that read the state of rooms."""

    state: RoomState
    memberships: Memberships

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/state",
        auth=USER_OR_GUEST,
        fresh=always,
        work=WorkClass.READ,
    )
    async def get_room_state(self, request: RoomRequest) -> bytes:
        """Spec: client-server API, GET /rooms/{roomId}/state."""
        return await self.state.all(request.requester, request.room_id)

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
        auth=USER_OR_GUEST,
        extra_paths=["/_matrix/client/v3/rooms/{room_id}/state/{event_type}"],
        fresh=always,
    )
    async def get_state_event(self, request: GetStateEventRequest) -> Any:
        """Spec: client-server API, GET /rooms/{roomId}/state/{eventType}/{stateKey}."""
        key = (request.event_type, request.state_key)
        if request.response_format == "event":
            return await self.state.event(request.requester, request.room_id, key)
        return await self.state.content(request.requester, request.room_id, key)

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/members",
        auth=USER_OR_GUEST,
        fresh=always,
        work=WorkClass.READ,
    )
    async def get_members(self, request: GetMembersRequest) -> MembersResponse:
        """Spec: client-server API, GET /rooms/{roomId}/members."""
        members = MembersRequest(
            request.room_id, request.at or None, request.membership, request.not_membership
        )
        return MembersResponse(await self.state.members(request.requester, members))

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/joined_members",
        auth=USER,
        fresh=always,
        work=WorkClass.READ,
    )
    async def get_joined_members(self, request: RoomRequest) -> JoinedMembersResponse:
        """Spec: client-server API, GET /rooms/{roomId}/joined_members."""
        return JoinedMembersResponse(
            await self.state.joined_members(request.requester, request.room_id)
        )

    @route("GET", "/_matrix/client/v3/joined_rooms", auth=USER, fresh=always)
    async def get_joined_rooms(self, request: GetJoinedRoomsRequest) -> JoinedRoomsResponse:
        """Spec: client-server API, GET /joined_rooms."""
        return JoinedRoomsResponse(await self.memberships.joined_rooms(request.requester.user_id))
