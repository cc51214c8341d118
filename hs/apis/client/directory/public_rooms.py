"""The list of rooms that anybody may find."""

from typing import Any

import attrs

from hs.apis.web.auth import OPTIONAL, USER_OR_GUEST
from hs.apis.web.request import body, query
from hs.apis.web.route import route
from hs.core.errors import InvalidParam, MissingToken, NotFound
from hs.core.ids import ServerName, parse_server_name
from hs.core.requester import Requester
from hs.services.directory.public_rooms import PublicRooms, Search, public_room

_PATH = "/_matrix/client/v3/publicRooms"


@attrs.frozen
class ListPublicRooms:
    """Spec: client-server API, GET /publicRooms."""

    requester: Requester | None
    limit: int | None = query(default=None)
    since: str | None = query(default=None)
    server: str | None = query(default=None)


@attrs.frozen
class Filter:
    """What the rooms must match."""

    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


@attrs.frozen
class SearchPublicRooms:
    """Spec: client-server API, POST /publicRooms."""

    requester: Requester
    server: str | None = query(default=None)
    limit: int | None = body(default=None)
    since: str | None = body(default=None)
    wanted: Filter = body(factory=Filter, name="filter")
    include_all_networks: bool = body(default=False)
    third_party_instance_id: str | None = body(default=None)


@attrs.frozen
class PublicRoomsPage:
    """A page of the list."""

    chunk: list[dict[str, Any]]
    total_room_count_estimate: int
    next_batch: str | None
    prev_batch: str | None


@attrs.frozen
class PublicRoomsApi:
    """The endpoints of the list of rooms.

    `open_to_all` is the setting `allow_public_rooms_without_auth`.
    """

    public_rooms: PublicRooms
    server_name: ServerName
    open_to_all: bool

    @route("GET", _PATH, auth=OPTIONAL, waits=True)
    async def list_rooms(self, request: ListPublicRooms) -> PublicRoomsPage:
        """Give a page of the list."""
        if request.requester is None and not self.open_to_all:
            raise MissingToken("Missing access token")
        return await self._page(request.server, Search(request.limit, request.since))

    @route("POST", _PATH, auth=USER_OR_GUEST, waits=True)
    async def search_rooms(self, request: SearchPublicRooms) -> PublicRoomsPage:
        """Give a page of what matches."""
        if request.include_all_networks and request.third_party_instance_id is not None:
            raise InvalidParam("Ask for all networks or for one of them")
        wanted = request.wanted
        asked = Search(
            request.limit,
            request.since,
            wanted.generic_search_term,
            wanted.room_types,
            request.third_party_instance_id,
            request.include_all_networks,
        )
        return await self._page(request.server, asked)

    async def _page(self, server: str | None, asked: Search) -> PublicRoomsPage:
        if server is not None and parse_server_name(server) != self.server_name:
            raise NotFound("The list of that server cannot be fetched")
        page = await self.public_rooms.search(asked)
        return PublicRoomsPage(
            [public_room(one) for one in page.rooms],
            page.total,
            page.next_batch,
            page.prev_batch,
        )
