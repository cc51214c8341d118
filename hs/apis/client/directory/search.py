"""Searching for messages."""

from typing import Any

import attrs

from hs.apis.web.auth import USER
from hs.apis.web.limits import Work
from hs.apis.web.request import body, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.filters import parse_event_filter
from hs.core.requester import Requester
from hs.services.search.message_search import MessageSearch
from hs.services.search.search_request import ContextAsk, GroupKey, Order, SearchAsk


@attrs.frozen
class Grouping:
    """One key to group by."""

    key: str


@attrs.frozen
class Groupings:
    """How results are to be grouped."""

    group_by: list[Grouping] = attrs.Factory(list)


@attrs.frozen
class RoomEventsCriteria:
    """What to search for in rooms."""

    search_term: str
    keys: list[str] | None = None
    filter: JsonObject = attrs.Factory(dict)
    order_by: str = "rank"
    event_context: ContextAsk | None = None
    include_state: bool = False
    groupings: Groupings = attrs.Factory(Groupings)


@attrs.frozen
class Categories:
    """What to search in."""

    room_events: RoomEventsCriteria | None = None


@attrs.frozen
class Search:
    requester: Requester
    search_categories: Categories = body()
    next_batch: str | None = query(default=None)


@attrs.frozen
class SearchApi:
    """Server-side search."""

    messages: MessageSearch

    @route("POST", "/_matrix/client/v3/search", auth=USER, work=Work.HEAVY, waits=True)
    async def search(self, request: Search) -> dict[str, Any]:
        """Spec: client-server API, Server Side Search."""
        criteria = request.search_categories.room_events
        if criteria is None:
            return {"search_categories": {}}
        ask = SearchAsk(
            term=criteria.search_term,
            keys=criteria.keys,
            wanted=parse_event_filter(criteria.filter),
            order=_order(criteria.order_by),
            groups=[_group_key(one.key) for one in criteria.groupings.group_by],
            context=criteria.event_context,
            include_state=criteria.include_state,
            next_batch=request.next_batch,
        )
        found = await self.messages.search(request.requester, ask)
        return {"search_categories": {"room_events": found}}


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
    raise InvalidParam("Results are grouped by 'room_id' or 'sender'")
