"""The endpoints that /sync has replaced; two of them are still used to preview rooms."""

from typing import Any, Final

import attrs

from hs.apis.client.rooms.room_messages import parse_limit
from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.request import path, query
from hs.apis.web.route import always, route
from hs.core.errors import GuestForbidden, InvalidParam
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.read.room_snapshot import LIMIT
from hs.services.sync.event_stream import MAX_EVENTS, EventsRequest, EventStream, EventStreamPage
from hs.services.sync.initial_sync import InitialSync

DEFAULT_TIMEOUT_MS: Final = 30_000
MAX_MESSAGES: Final = 100


@attrs.frozen
class GetEventsRequest:
    """GET /events, in all rooms or in one."""

    requester: Requester
    start: str | None = query(name="from", default=None)
    timeout: int = query(default=DEFAULT_TIMEOUT_MS)
    limit: int = query(default=MAX_EVENTS, parse=parse_limit)
    room_id: RoomID | None = query(default=None)


@attrs.frozen
class InitialSyncRequest:
    """GET /initialSync."""

    requester: Requester
    limit: int = query(default=LIMIT, parse=parse_limit)
    archived: bool = query(default=False)


@attrs.frozen
class RoomInitialSyncRequest:
    """GET /rooms/{roomId}/initialSync."""

    requester: Requester
    room_id: RoomID = path()
    limit: int = query(default=LIMIT, parse=parse_limit)


@attrs.frozen
class DeprecatedSyncApi:
    """The deprecated endpoints of sync."""

    stream: EventStream
    initial: InitialSync

    @route("GET", "/_matrix/client/v3/events", auth=USER_OR_GUEST, cancel_on_disconnect=True)
    async def get_events(self, request: GetEventsRequest) -> EventStreamPage:
        """Spec: client-server API, Syncing (deprecated); Room Previews."""
        if request.requester.is_guest and request.room_id is None:
            raise GuestForbidden("Guests must set room_id")
        if request.timeout < 0:
            raise InvalidParam("timeout must not be negative")
        return await self.stream.events(
            EventsRequest(
                request.requester,
                request.start or None,
                request.timeout,
                max(1, min(request.limit, MAX_EVENTS)),
                request.room_id,
            )
        )

    @route("GET", "/_matrix/client/v3/initialSync", auth=USER, fresh=always)
    async def initial_sync(self, request: InitialSyncRequest) -> dict[str, Any]:
        """Spec: client-server API, Syncing (deprecated)."""
        limit = min(request.limit, MAX_MESSAGES)
        return await self.initial.all_rooms(request.requester, limit, request.archived)

    @route(
        "GET", "/_matrix/client/v3/rooms/{room_id}/initialSync", auth=USER_OR_GUEST, fresh=always
    )
    async def room_initial_sync(self, request: RoomInitialSyncRequest) -> dict[str, Any]:
        """Spec: client-server API, Room Previews."""
        limit = min(request.limit, MAX_MESSAGES)
        return await self.initial.one_room(request.requester, request.room_id, limit)
