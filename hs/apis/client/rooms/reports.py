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
class ReportRoom:
    """Report a room."""

    requester: Requester
    room_id: RoomID = path()
    reason: str = body()


@attrs.frozen
class ReportEvent:
    """Report an event."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)
    reason: str | None = body(default=None)
    score: int | None = body(default=None)


@attrs.frozen
class ReportUser:
    """Report a user."""

    requester: Requester
    user_id: UserID = path()
    reason: str = body()


@attrs.frozen
class ReportsApi:
    """The paths that end in /report."""

    reports: Reports

    @route(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/report",
        auth=USER,
        rate="reports",
        also=["/_matrix/client/unstable/org.matrix.msc4151/rooms/{room_id}/report"],
    )
    async def report_room(self, request: ReportRoom) -> Empty:
        """Spec: client-server API, POST rooms/{roomId}/report."""
        await self.reports.report_room(request.requester, request.room_id, request.reason)
        return Empty()

    @route(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/report/{event_id}",
        auth=USER,
        rate="reports",
    )
    async def report_event(self, request: ReportEvent) -> Empty:
        """Spec: client-server API, POST rooms/{roomId}/report/{eventId}."""
        await self.reports.report_event(
            request.requester, request.room_id, request.event_id, request.reason, request.score
        )
        return Empty()

    @route("POST", "/_matrix/client/v3/users/{user_id}/report", auth=USER, rate="reports")
    async def report_user(self, request: ReportUser) -> Empty:
        """Spec: client-server API, POST users/{userId}/report."""
        await self.reports.report_user(request.requester, request.user_id, request.reason)
        return Empty()
