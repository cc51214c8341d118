"""Message search."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.filters import parse_event_filter
from hs.core.requester import Requester
from hs.services.search.message_search import MessageSearch
from hs.services.search.search_request import (
    GroupKey,
    MessageSearchRequest,
    Order,
    SearchContextRequest,
)


@attrs.frozen
class SearchGrouping:
    """A key to group results by."""

    key: str


@attrs.frozen
class SearchGroupings:
    """The grouping of the results."""

    group_by: list[SearchGrouping] = attrs.Factory(list)


@attrs.frozen
class RoomEventsCriteria:
    """The criteria for events in rooms."""

    search_term: str
    keys: list[str] | None = None
    filter: JsonObject = attrs.Factory(dict)
    order_by: str = "rank"
    event_context: SearchContextRequest | None = None
    include_state: bool = False
    groupings: SearchGroupings = attrs.Factory(SearchGroupings)


@attrs.frozen
class SearchCategories:
    """The criteria per category."""

    room_events: RoomEventsCriteria | None = None


@attrs.frozen
class SearchRequest:
    """POST /search."""

    requester: Requester
    search_categories: SearchCategories = body()
    next_batch: str | None = query(default=None)


@attrs.frozen
class SearchApi:
    """The endpoint of message search."""

    messages: MessageSearch

    @route(
        "POST",
        "/_matrix/client/v3/search",
        auth=USER,
        rate="search",
        work=WorkClass.HEAVY,
        cancel_on_disconnect=True,
    )
    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """Spec: client-server API, Server Side Search."""
        criteria = request.search_categories.room_events
        if criteria is None:
            return {"search_categories": {}}
        search = MessageSearchRequest(
            term=criteria.search_term,
            keys=criteria.keys,
            event_filter=parse_event_filter(criteria.filter),
            order=_order(criteria.order_by),
            groups=[_group_key(grouping.key) for grouping in criteria.groupings.group_by],
            context=criteria.event_context,
            include_state=criteria.include_state,
            next_batch=request.next_batch,
        )
        results = await self.messages.search(request.requester, search)
        return {"search_categories": {"room_events": results}}


def _order(name: str) -> Order:
    if name == "rank":
        return "rank"
    if name == "recent":
        return "recent"
    raise InvalidParam("order_by must be 'rank' or 'recent'")


def _group_key(name: str) -> GroupKey:
    if name == "room_id":
        return "room_id"
    if name == "sender":
        return "sender"
    raise InvalidParam("group_by keys must be 'room_id' or 'sender'")
