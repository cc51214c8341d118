"""Creating rooms."""

from typing import Literal

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.ids import RoomID, parse_user_id
from hs.core.requester import Requester
from hs.services.rooms.creation.create_with_third_party_invites import RoomCreationWithInvites
from hs.services.rooms.creation.initial_events import InitialState, NewRoomRequest, Preset
from hs.services.rooms.membership.third_party_invites import InvitedAddress


@attrs.frozen
class CreateRoomRequest:
    """POST /createRoom."""

    requester: Requester
    preset: Preset | None = body(default=None)
    visibility: Literal["public", "private"] = body(default="private")
    room_alias_name: str | None = body(default=None)
    room_name: str | None = body(default=None, name="name")
    topic: str | None = body(default=None)
    invite: list[str] = body(factory=list)
    invite_3pid: list[InvitedAddress] = body(factory=list)
    room_version: str | None = body(default=None)
    creation_content: JsonObject = body(factory=dict)
    initial_state: list[InitialState] = body(factory=list)
    is_direct: bool = body(default=False)
    power_level_content_override: JsonObject = body(factory=dict)


@attrs.frozen
class CreateRoomResponse:
    """The new room."""

    room_id: RoomID


@attrs.frozen
class CreateRoomApi:
    """The endpoint that creates rooms."""

    creation: RoomCreationWithInvites

    @route(
        "POST",
        "/_matrix/client/v3/createRoom",
        auth=USER,
        rate="room_creation",
        work=WorkClass.CREATE,
    )
    async def create_room(self, request: CreateRoomRequest) -> CreateRoomResponse:
        """Spec: client-server API, POST /createRoom."""
        new_room = NewRoomRequest(
            preset=request.preset,
            is_listed=request.visibility == "public",
            alias_localpart=request.room_alias_name,
            name=request.room_name,
            topic=request.topic,
            invite=[parse_user_id(user_id) for user_id in request.invite],
            room_version=request.room_version,
            creation_content=request.creation_content,
            initial_state=request.initial_state,
            is_direct=request.is_direct,
            power_levels=request.power_level_content_override,
        )
        room_id = await self.creation.create(request.requester, new_room, request.invite_3pid)
        return CreateRoomResponse(room_id)
