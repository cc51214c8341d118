"""What only application services may ask: whether they are reached, and lists of their own."""

from typing import Literal, Protocol

import attrs

from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import RoomID
from hs.core.requester import Requester

_LISTED = "/_matrix/client/v3/directory/list/appservice/{network_id}/{room_id}"


class Ping(Protocol):
    """Asks a service whether it hears."""

    async def ping(self, requester: Requester, service_id: str, txn_id: str | None) -> int: ...


class NetworkLists(Protocol):
    """The lists of rooms of services' networks."""

    async def set_listed(
        self, requester: Requester, network_id: str, room_id: RoomID, listed: bool
    ) -> None: ...


@attrs.frozen
class PingRequest:
    """Path and body of a ping."""

    requester: Requester
    appservice_id: str = path()
    transaction_id: str | None = body(default=None)


@attrs.frozen
class Pinged:
    """How long the service took."""

    duration_ms: int


@attrs.frozen
class SetListed:
    """Path and body of `PUT /directory/list/appservice/{networkId}/{roomId}`."""

    requester: Requester
    network_id: str = path()
    room_id: RoomID = path()
    visibility: Literal["public", "private"] = body(default="public")


@attrs.frozen
class Unlist:
    """Path of `DELETE /directory/list/appservice/{networkId}/{roomId}`."""

    requester: Requester
    network_id: str = path()
    room_id: RoomID = path()


@attrs.frozen
class AppserviceApi:
    """`/appservice/…/ping` and `/directory/list/appservice`."""

    pinger: Ping
    lists: NetworkLists

    @route(
        "POST",
        "/_matrix/client/v1/appservice/{appservice_id}/ping",
        also=["/_matrix/client/unstable/fi.mau.msc2659/appservice/{appservice_id}/ping"],
    )
    async def ping(self, request: PingRequest) -> Pinged:
        """Spec: application service API, Pinging."""
        took_ms = await self.pinger.ping(
            request.requester, request.appservice_id, request.transaction_id
        )
        return Pinged(took_ms)

    @route("PUT", _LISTED)
    async def set_listed(self, request: SetListed) -> Empty:
        """Spec: application service API, Room directory."""
        await self.lists.set_listed(
            request.requester, request.network_id, request.room_id, request.visibility == "public"
        )
        return Empty()

    @route("DELETE", _LISTED)
    async def unlist(self, request: Unlist) -> Empty:
        """Take a room out of a network's list."""
        await self.lists.set_listed(request.requester, request.network_id, request.room_id, False)
        return Empty()
