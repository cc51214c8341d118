"""The published room directory for other servers."""

import attrs

from hs.apis.client.directory.public_rooms import PublicRoomsFilter, PublicRoomsResponse, rendered
from hs.apis.web.auth import FEDERATION
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body, query
from hs.apis.web.route import route
from hs.core.errors import Forbidden, InvalidParam
from hs.services.directory.public_rooms import PublicRooms, PublicRoomsRequest

_PATH = "/_matrix/federation/v1/publicRooms"


@attrs.frozen
class ServePublicRoomsRequest:
    """GET /publicRooms."""

    limit: int | None = query(default=None)
    since: str | None = query(default=None)
    include_all_networks: bool = query(default=False)
    third_party_instance_id: str | None = query(default=None)


@attrs.frozen
class ServePublicRoomsQuery:
    """POST /publicRooms."""

    limit: int | None = body(default=None)
    since: str | None = body(default=None)
    room_filter: PublicRoomsFilter = body(factory=PublicRoomsFilter, name="filter")
    include_all_networks: bool = body(default=False)
    third_party_instance_id: str | None = body(default=None)


@attrs.frozen
class ServedPublicRoomsApi:
    """Endpoints of the directory; `is_open` is the setting `allow_public_rooms_over_federation`."""

    public_rooms: PublicRooms
    is_open: bool

    @route("GET", _PATH, auth=FEDERATION, work=WorkClass.FEDERATION, cancel_on_disconnect=True)
    async def get_public_rooms(self, request: ServePublicRoomsRequest) -> PublicRoomsResponse:
        """Spec: server-server API, Published Room Directory."""
        return await self._page(
            PublicRoomsRequest(
                limit=request.limit,
                since=request.since,
                network=request.third_party_instance_id,
                all_networks=request.include_all_networks,
            )
        )

    @route("POST", _PATH, auth=FEDERATION, work=WorkClass.FEDERATION, cancel_on_disconnect=True)
    async def query_public_rooms(self, request: ServePublicRoomsQuery) -> PublicRoomsResponse:
        """Spec: server-server API, Published Room Directory."""
        return await self._page(
            PublicRoomsRequest(
                limit=request.limit,
                since=request.since,
                term=request.room_filter.generic_search_term,
                room_types=request.room_filter.room_types,
                network=request.third_party_instance_id,
                all_networks=request.include_all_networks,
            )
        )

    async def _page(self, search: PublicRoomsRequest) -> PublicRoomsResponse:
        if not self.is_open:
            raise Forbidden("This server does not publish its room directory to other servers")
        if search.all_networks and search.network is not None:
            raise InvalidParam(
                "include_all_networks and third_party_instance_id exclude each other"
            )
        return rendered(await self.public_rooms.search(search))
