"""Reporting rooms, events and users."""

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import EventID, RoomID, UserID, parse_event_id
from hs.core.requester import Requester
from hs.services.admin.reports import Reports


@attrs.frozen
class ReportRoomRequest:
    """POST /rooms/{roomId}/report."""

    requester: Requester
    room_id: RoomID = path()
    reason: str = body()


@attrs.frozen
class ReportEventRequest:
    """POST /rooms/{roomId}/report/{eventId}."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)
    reason: str | None = body(default=None)
    score: int | None = body(default=None)


@attrs.frozen
class ReportUserRequest:
    """POST /users/{userId}/report."""

    requester: Requester
    user_id: UserID = path()
    reason: str = body()


@attrs.frozen
class ReportsApi:
    """Endpoints of reports."""

    reports: Reports

    @route(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/report",
        auth=USER,
        rate="reports",
        extra_paths=["/_matrix/client/unstable/org.matrix.msc4151/rooms/{room_id}/report"],
    )
    async def report_room(self, request: ReportRoomRequest) -> Empty:
        """Spec: client-server API, Reporting Content."""
        await self.reports.report_room(request.requester, request.room_id, request.reason)
        return Empty()

    @route(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/report/{event_id}",
        auth=USER,
        rate="reports",
    )
    async def report_event(self, request: ReportEventRequest) -> Empty:
        """Spec: client-server API, Reporting Content."""
        await self.reports.report_event(
            request.requester, request.room_id, request.event_id, request.reason, request.score
        )
        return Empty()

    @route("POST", "/_matrix/client/v3/users/{user_id}/report", auth=USER, rate="reports")
    async def report_user(self, request: ReportUserRequest) -> Empty:
        """Spec: client-server API, Reporting Content."""
        await self.reports.report_user(request.requester, request.user_id, request.reason)
        return Empty()
