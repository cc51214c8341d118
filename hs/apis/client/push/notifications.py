"""The list of notifications."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.push.unread.notification_list import DEFAULT_NOTIFICATIONS, Notifications


@attrs.frozen
class ListNotifications:
    """Ask for notifications."""

    requester: Requester
    start: str | None = query(default=None, name="from")
    limit: int = query(default=DEFAULT_NOTIFICATIONS)
    only: str = query(default="")


@attrs.frozen
class NotificationsApi:
    """GET /notifications."""

    notifications: Notifications

    @route("GET", "/_matrix/client/v3/notifications", auth=USER)
    async def list_notifications(self, request: ListNotifications) -> dict[str, Any]:
        """Spec: client-server API, GET notifications."""
        return await self.notifications.of_user(
            request.requester, request.start, request.limit, highlights=request.only == "highlight"
        )
