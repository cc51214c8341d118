"""Thread subscriptions, and the list of their changes.

Spec: MSC4306, MSC4308.
"""

from typing import Any, Final, Literal

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.ids import EventID, RoomID, parse_event_id
from hs.core.requester import Requester
from hs.services.rooms.threads.thread_subscriptions import DEFAULT_LIMIT, ThreadSubscriptions
from hs.services.sync.sliding.thread_extension import subscriptions_by_room

_SUBSCRIPTION: Final = (
    "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{event_id}/subscription"
)


@attrs.frozen
class ThreadSubscriptionRequest:
    """GET and DELETE of a thread subscription."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)


@attrs.frozen
class SubscribeToThreadRequest:
    """PUT of a thread subscription; `automatic` is the event that caused it, if any did."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)
    automatic: EventID | None = body(default=None, parse=parse_event_id)


@attrs.frozen
class ThreadSubscriptionResponse:
    """An existing subscription."""

    automatic: bool


@attrs.frozen
class ListThreadSubscriptionChangesRequest:
    """GET /thread_subscriptions: a range of changes, from the latest to the earliest."""

    requester: Requester
    direction: Literal["b"] = query(name="dir")
    start: str | None = query(name="from", default=None)
    to: str | None = query(default=None)
    limit: int = query(default=DEFAULT_LIMIT)


@attrs.frozen
class ThreadSubscriptionsApi:
    """Endpoints of thread subscriptions."""

    subscriptions: ThreadSubscriptions

    @route("GET", _SUBSCRIPTION, auth=USER_OR_GUEST)
    async def get_thread_subscription(
        self, request: ThreadSubscriptionRequest
    ) -> ThreadSubscriptionResponse:
        """Spec: MSC4306, Retrieving thread subscription."""
        return ThreadSubscriptionResponse(
            await self.subscriptions.is_automatic(
                request.requester, request.room_id, request.event_id
            )
        )

    @route("PUT", _SUBSCRIPTION, auth=USER_OR_GUEST)
    async def subscribe_to_thread(self, request: SubscribeToThreadRequest) -> Empty:
        """Spec: MSC4306, Subscribing to a thread."""
        await self.subscriptions.subscribe(
            request.requester, request.room_id, request.event_id, request.automatic
        )
        return Empty()

    @route("DELETE", _SUBSCRIPTION, auth=USER_OR_GUEST)
    async def unsubscribe_from_thread(self, request: ThreadSubscriptionRequest) -> Empty:
        """Spec: MSC4306, Unsubscribing from a thread."""
        await self.subscriptions.unsubscribe(request.requester, request.room_id, request.event_id)
        return Empty()

    @route(
        "GET",
        "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions",
        auth=USER_OR_GUEST,
    )
    async def list_thread_subscription_changes(
        self, request: ListThreadSubscriptionChangesRequest
    ) -> dict[str, Any]:
        """Spec: MSC4308, Companion endpoint for backpaginating thread subscription changes."""
        page = await self.subscriptions.page(
            request.requester, request.start, request.to, request.limit
        )
        response: dict[str, Any] = subscriptions_by_room(page.changes)
        if page.end is not None:
            response["end"] = page.end
        return response
