"""The complexity of rooms. Not in the Matrix specification; other servers ask for it."""

import attrs

from hs.apis.web.auth import FEDERATION
from hs.apis.web.request import origin, path
from hs.apis.web.route import always, route
from hs.core.ids import RoomID, ServerName
from hs.services.federation.joining.room_complexity import RoomComplexity


@attrs.frozen
class ComplexityRequest:
    """GET /rooms/{roomId}/complexity."""

    origin: ServerName = origin()
    room_id: RoomID = path()


@attrs.frozen
class ServedComplexity:
    """The complexity of a room."""

    v1: float


@attrs.frozen(eq=False)
class RoomComplexityApi:
    """The endpoint of the complexity of rooms."""

    complexity: RoomComplexity

    @route(
        "GET",
        "/_matrix/federation/unstable/rooms/{room_id}/complexity",
        auth=FEDERATION,
        fresh=always,
    )
    async def get_complexity(self, request: ComplexityRequest) -> ServedComplexity:
        """Return the complexity of a room."""
        return ServedComplexity(await self.complexity.of(request.origin, request.room_id))
