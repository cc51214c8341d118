"""Endpoints for application services only: ping, and the room directories of networks."""

from typing import Literal

import attrs

from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.appservices.network_directory import NetworkRoomLists
from hs.services.appservices.ping import AppservicePing

_LISTED = "/_matrix/client/v3/directory/list/appservice/{network_id}/{room_id}"


@attrs.frozen
class PingAppserviceRequest:
    """POST /appservice/{appserviceId}/ping."""

    requester: Requester
    appservice_id: str = path()
    transaction_id: str | None = body(default=None)


@attrs.frozen
class PingAppserviceResponse:
    """The time until the application service responded."""

    duration_ms: int


@attrs.frozen
class SetNetworkVisibilityRequest:
    """PUT /directory/list/appservice/{networkId}/{roomId}."""

    requester: Requester
    network_id: str = path()
    room_id: RoomID = path()
    visibility: Literal["public", "private"] = body(default="public")


@attrs.frozen
class UnlistNetworkRoomRequest:
    """DELETE /directory/list/appservice/{networkId}/{roomId}."""

    requester: Requester
    network_id: str = path()
    room_id: RoomID = path()


@attrs.frozen
class AppserviceApi:
    """Endpoints for application services."""

    pings: AppservicePing
    directories: NetworkRoomLists

    @route(
        "POST",
        "/_matrix/client/v1/appservice/{appservice_id}/ping",
        extra_paths=["/_matrix/client/unstable/fi.mau.msc2659/appservice/{appservice_id}/ping"],
    )
    async def ping_appservice(self, request: PingAppserviceRequest) -> PingAppserviceResponse:
        """Spec: application service API, Pinging."""
        duration_ms = await self.pings.ping(
            request.requester, request.appservice_id, request.transaction_id
        )
        return PingAppserviceResponse(duration_ms)

    @route("PUT", _LISTED)
    async def set_network_visibility(self, request: SetNetworkVisibilityRequest) -> Empty:
        """Spec: application service API, Room directory."""
        await self.directories.set_listed(
            request.requester, request.network_id, request.room_id, request.visibility == "public"
        )
        return Empty()

    @route("DELETE", _LISTED)
    async def unlist_network_room(self, request: UnlistNetworkRoomRequest) -> Empty:
        """Remove a room from the directory of a network; not in the specification."""
        await self.directories.set_listed(
            request.requester, request.network_id, request.room_id, False
        )
        return Empty()
