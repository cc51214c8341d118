"""The published room directory."""

from typing import Any

import attrs

from hs.apis.web.auth import OPTIONAL, USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body, query
from hs.apis.web.route import route
from hs.core.errors import InvalidParam, MissingToken
from hs.core.ids import ServerName, parse_server_name
from hs.core.requester import Requester
from hs.services.directory.public_rooms import (
    PublicRooms,
    PublicRoomsPage,
    PublicRoomsRequest,
    RoomDirectories,
    render_public_room,
)

_PATH = "/_matrix/client/v3/publicRooms"


@attrs.frozen
class GetPublicRoomsRequest:
    """GET /publicRooms."""

    requester: Requester | None
    limit: int | None = query(default=None)
    since: str | None = query(default=None)
    server: str | None = query(default=None)


@attrs.frozen
class PublicRoomsFilter:
    """The conditions for rooms."""

    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


@attrs.frozen
class QueryPublicRoomsRequest:
    """POST /publicRooms."""

    requester: Requester
    server: str | None = query(default=None)
    limit: int | None = body(default=None)
    since: str | None = body(default=None)
    room_filter: PublicRoomsFilter = body(factory=PublicRoomsFilter, name="filter")
    include_all_networks: bool = body(default=False)
    third_party_instance_id: str | None = body(default=None)


@attrs.frozen
class PublicRoomsResponse:
    """A page of the directory."""

    chunk: list[dict[str, Any]]
    total_room_count_estimate: int
    next_batch: str | None
    prev_batch: str | None


@attrs.frozen
class PublicRoomsApi:
    """Endpoints of the room directory.

    `open_to_all` is the setting `allow_public_rooms_without_auth`.
    """

    public_rooms: PublicRooms
    others: RoomDirectories
    server_name: ServerName
    open_to_all: bool

    @route("GET", _PATH, auth=OPTIONAL, work=WorkClass.OTHERS, cancel_on_disconnect=True)
    async def get_public_rooms(self, request: GetPublicRoomsRequest) -> PublicRoomsResponse:
        """Spec: client-server API, Published room directory."""
        if request.requester is None and (not self.open_to_all or request.server is not None):
            raise MissingToken("Missing access token")
        return await self._page(request.server, PublicRoomsRequest(request.limit, request.since))

    @route("POST", _PATH, auth=USER_OR_GUEST, work=WorkClass.OTHERS, cancel_on_disconnect=True)
    async def query_public_rooms(self, request: QueryPublicRoomsRequest) -> PublicRoomsResponse:
        """Spec: client-server API, Published room directory."""
        if request.include_all_networks and request.third_party_instance_id is not None:
            raise InvalidParam(
                "include_all_networks and third_party_instance_id exclude each other"
            )
        search = PublicRoomsRequest(
            limit=request.limit,
            since=request.since,
            term=request.room_filter.generic_search_term,
            room_types=request.room_filter.room_types,
            network=request.third_party_instance_id,
            all_networks=request.include_all_networks,
        )
        return await self._page(request.server, search)

    async def _page(self, server: str | None, search: PublicRoomsRequest) -> PublicRoomsResponse:
        if server is not None and (name := parse_server_name(server)) != self.server_name:
            listed = await self.others.list_rooms(name, search)
            return PublicRoomsResponse(
                [*listed.rooms], listed.total, listed.next_batch, listed.prev_batch
            )
        return rendered(await self.public_rooms.search(search))


def rendered(page: PublicRoomsPage) -> PublicRoomsResponse:
    """Return the response with a page of the directory."""
    return PublicRoomsResponse(
        [render_public_room(room) for room in page.rooms],
        page.total,
        page.next_batch,
        page.prev_batch,
    )
