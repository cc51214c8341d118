"""The notifications of the requester."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.push.unread.notification_list import DEFAULT_NOTIFICATIONS, NotificationList


@attrs.frozen
class GetNotificationsRequest:
    """GET /notifications."""

    requester: Requester
    start: str | None = query(default=None, name="from")
    limit: int = query(default=DEFAULT_NOTIFICATIONS)
    only: str = query(default="")


@attrs.frozen
class NotificationsApi:
    """The endpoint of notifications."""

    notifications: NotificationList

    @route("GET", "/_matrix/client/v3/notifications", auth=USER)
    async def get_notifications(self, request: GetNotificationsRequest) -> dict[str, Any]:
        """Spec: client-server API, Push Notifications, Listing Notifications."""
        return await self.notifications.page(
            request.requester, request.start, request.limit, highlights=request.only == "highlight"
        )
