"""Upgrading rooms to other room versions."""

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body, path
from hs.apis.web.route import always, route
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.creation.room_upgrade import RoomUpgrade


@attrs.frozen
class UpgradeRoomRequest:
    """POST /rooms/{roomId}/upgrade."""

    requester: Requester
    room_id: RoomID = path()
    new_version: str = body()
    additional_creators: list[str] = body(factory=list)


@attrs.frozen
class UpgradeRoomResponse:
    """The room that replaces the upgraded room."""

    replacement_room: RoomID


@attrs.frozen
class RoomUpgradeApi:
    """The endpoint that upgrades rooms."""

    upgrades: RoomUpgrade

    @route(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/upgrade",
        auth=USER,
        rate="room_creation",
        work=WorkClass.CREATE,
        fresh=always,
    )
    async def upgrade_room(self, request: UpgradeRoomRequest) -> UpgradeRoomResponse:
        """Spec: client-server API, Room Upgrades."""
        replacement = await self.upgrades.upgrade(
            request.requester, request.room_id, request.new_version, request.additional_creators
        )
        return UpgradeRoomResponse(replacement)
