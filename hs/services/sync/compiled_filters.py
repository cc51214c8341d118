"""Filters as /sync takes them, read once, and numbered so that equal ones share work."""

from typing import Final

import orjson

from hs.core.errors import BadJson, InvalidParam
from hs.core.filters import NO_FILTER, SyncFilter, parse_sync_filter
from hs.core.ids import UserID
from hs.lib.caching.lru_cache import LruCache
from hs.services.sync.sources import Filters
from hs.services.sync.sync_context import DEFAULT_LIMIT, Plan

MAX_FILTERS: Final = 2_000
MAX_FILTER_BYTES: Final = 65_536
UNBOUNDED: Final = -1


class Plans:
    """Makes plans of filters."""

    def __init__(self, filters: Filters, max_limit: int) -> None:
        self._filters = filters
        self._max_limit = max_limit
        self._inline: LruCache[str, Plan] = LruCache("inline_filters", max_entries=MAX_FILTERS)
        self._stored: LruCache[tuple[UserID, str], Plan] = LruCache(
            "stored_filters", max_entries=MAX_FILTERS
        )
        # A filter's looks are numbered in the order of their appearance; a number is never given
        # twice, so what was shared under one that was dropped is just not found again.
        self._looks: LruCache[object, int] = LruCache("looks", max_entries=MAX_FILTERS)
        self._next_look = 1
        self._plain = self._plan(NO_FILTER)

    async def plan(self, user_id: UserID, text: str | None) -> Plan:
        """Give the plan for the ID of a stored filter, or for a filter as JSON.

        Raises: BadJson, InvalidParam, NotFound.
        """
        if not text:
            return self._plain
        if text.startswith("{"):
            plan = self._inline.get(text)
            if plan is None:
                plan = self._plan(_parse(text))
                self._inline.put(text, plan)
            return plan
        # A stored filter never changes.
        plan = self._stored.get((user_id, text))
        if plan is None:
            plan = self._plan(await self._filters.stored_filter(user_id, text))
            self._stored.put((user_id, text), plan)
        return plan

    def _plan(self, given: SyncFilter) -> Plan:
        timeline = given.room.timeline
        look = (given.event_fields, given.federation_format, timeline, given.room.state)
        number = self._looks.get(look)
        if number is None:
            number, self._next_look = self._next_look, self._next_look + 1
            self._looks.put(look, number)
        most = self._max_limit
        limit = DEFAULT_LIMIT if timeline.limit is None else timeline.limit
        return Plan(given, number, limit if most == UNBOUNDED else min(limit, most))


def _parse(text: str) -> SyncFilter:
    if len(text) > MAX_FILTER_BYTES:
        raise InvalidParam("The filter is too large")
    try:
        value = orjson.loads(text)
    except ValueError as fault:
        raise BadJson("The filter is not JSON") from fault
    return parse_sync_filter(value)
