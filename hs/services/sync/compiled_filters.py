"""Parsed filters of `/sync`, cached, with one ID for all filters that render events alike.

Responses share rendered timelines under the rendering ID, so an ID is never reused: after an
eviction, an equal filter gets a new ID and shared timelines under the old one are not found again.
"""

from typing import Final

import orjson

from hs.core.errors import BadJson, InvalidParam
from hs.core.filters import NO_FILTER, RoomFilter, SyncFilter, parse_sync_filter, size_of
from hs.core.ids import UserID
from hs.lib.caching.lru_cache import LruCache
from hs.services.accounts.account_data.filters import StoredFilters
from hs.services.sync.sync_context import DEFAULT_TIMELINE_LIMIT, CompiledFilter

MAX_FILTERS: Final = 2_000
MAX_CACHED_BYTES: Final = 32 * 1024 * 1024
MAX_FILTER_BYTES: Final = 65_536
UNLIMITED: Final = -1


class CompiledFilters:
    """The cache of parsed filters, stored and inline."""

    def __init__(self, filters: StoredFilters, max_limit: int) -> None:
        self._filters = filters
        self._max_limit = max_limit
        self._inline: LruCache[str, CompiledFilter] = LruCache(
            "inline_filters", max_entries=MAX_FILTERS, max_weight=MAX_CACHED_BYTES, weigh=_weigh
        )
        self._stored: LruCache[tuple[UserID, str], CompiledFilter] = LruCache(
            "stored_filters", max_entries=MAX_FILTERS, max_weight=MAX_CACHED_BYTES, weigh=_weigh
        )
        # The parts of a filter that decide how events are rendered, and their ID.
        self._rendering_ids: LruCache[SyncFilter, int] = LruCache(
            "rendering_ids",
            max_entries=MAX_FILTERS,
            max_weight=MAX_CACHED_BYTES,
            weigh=lambda rendering, _: size_of(rendering),
        )
        self._next_rendering_id = 1
        self._default = self._compile(NO_FILTER)

    async def get(self, user_id: UserID, text: str | None) -> CompiledFilter:
        """Return the parsed filter for the ID of a stored filter or for inline JSON.

        Raises: BadJson or InvalidParam if the inline filter is invalid; NotFound if the user has
            no stored filter with this ID.
        """
        if not text:
            return self._default
        if text.startswith("{"):
            compiled = self._inline.get(text)
            if compiled is None:
                compiled = self._compile(_parse(text))
                self._inline.put(text, compiled)
            return compiled
        # Stored filters are immutable.
        compiled = self._stored.get((user_id, text))
        if compiled is None:
            compiled = self._compile(await self._filters.stored_filter(user_id, text))
            self._stored.put((user_id, text), compiled)
        return compiled

    def _compile(self, sync_filter: SyncFilter) -> CompiledFilter:
        timeline = sync_filter.room.timeline
        rendering = SyncFilter(
            event_fields=sync_filter.event_fields,
            federation_format=sync_filter.federation_format,
            room=RoomFilter(timeline=timeline, state=sync_filter.room.state),
        )
        rendering_id = self._rendering_ids.get(rendering)
        if rendering_id is None:
            rendering_id, self._next_rendering_id = (
                self._next_rendering_id,
                self._next_rendering_id + 1,
            )
            self._rendering_ids.put(rendering, rendering_id)
        max_limit = self._max_limit
        limit = DEFAULT_TIMELINE_LIMIT if timeline.limit is None else timeline.limit
        return CompiledFilter(
            sync_filter, rendering_id, limit if max_limit == UNLIMITED else min(limit, max_limit)
        )


def _weigh(key: object, compiled: CompiledFilter) -> int:
    return size_of(compiled.filter)


def _parse(text: str) -> SyncFilter:
    if len(text) > MAX_FILTER_BYTES:
        raise InvalidParam(f"filter must not be longer than {MAX_FILTER_BYTES} characters")
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise BadJson("filter is neither a filter ID nor valid JSON") from error
    return parse_sync_filter(value)
