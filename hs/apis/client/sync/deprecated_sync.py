"""The endpoints that /sync has replaced, some of which still serve to look into rooms."""

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
from hs.services.sync.event_stream import MAX_EVENTS, EventsAsk, EventsPage, EventStream
from hs.services.sync.initial_sync import InitialSync

DEFAULT_TIMEOUT_MS: Final = 30_000
MAX_MESSAGES: Final = 100


@attrs.frozen
class GetEvents:
    """Ask for what happens from a token on; of one room, if it is given."""

    requester: Requester
    start: str | None = query(name="from", default=None)
    timeout: int = query(default=DEFAULT_TIMEOUT_MS)
    limit: int = query(default=MAX_EVENTS, parse=parse_limit)
    room_id: RoomID | None = query(default=None)


@attrs.frozen
class GetInitialSync:
    """Ask for everything."""

    requester: Requester
    limit: int = query(default=LIMIT, parse=parse_limit)
    archived: bool = query(default=False)


@attrs.frozen
class GetRoomInitialSync:
    """Ask for a room at a glance."""

    requester: Requester
    room_id: RoomID = path()
    limit: int = query(default=LIMIT, parse=parse_limit)


@attrs.frozen
class OldSyncApi:
    """Following rooms as before /sync."""

    stream: EventStream
    initial: InitialSync

    @route("GET", "/_matrix/client/v3/events", auth=USER_OR_GUEST, waits=True)
    async def events(self, request: GetEvents) -> EventsPage:
        """Spec: client-server API, GET /events, deprecated but for looking into rooms."""
        if request.requester.is_guest and request.room_id is None:
            raise GuestForbidden("Guests must name a room")
        if request.timeout < 0:
            raise InvalidParam("timeout must not be negative")
        return await self.stream.events(
            EventsAsk(
                request.requester,
                request.start or None,
                request.timeout,
                max(1, min(request.limit, MAX_EVENTS)),
                request.room_id,
            )
        )

    @route("GET", "/_matrix/client/v3/initialSync", auth=USER, fresh=always)
    async def initial_sync(self, request: GetInitialSync) -> dict[str, Any]:
        """Spec: client-server API, GET /initialSync, deprecated."""
        limit = min(request.limit, MAX_MESSAGES)
        return await self.initial.everything(request.requester, limit, request.archived)

    @route(
        "GET", "/_matrix/client/v3/rooms/{room_id}/initialSync", auth=USER_OR_GUEST, fresh=always
    )
    async def room_initial_sync(self, request: GetRoomInitialSync) -> dict[str, Any]:
        """Spec: client-server API, GET /rooms/{roomId}/initialSync, for looking into rooms."""
        limit = min(request.limit, MAX_MESSAGES)
        return await self.initial.room(request.requester, request.room_id, limit)
