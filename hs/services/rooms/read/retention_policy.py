"""How long rooms keep their messages: as their state says, within the administrator's bounds.

Older messages are hidden at once, and purged later by `services/rooms/retention`.

Spec: MSC1763, `m.room.retention`.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.ids import RoomID
from hs.core.streams import EVENTS, EventRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.state_store import StateStore
from hs.settings.sections.retention import RetentionSettings

RETENTION: Final = "m.room.retention"
MAX_ROOMS: Final = 50_000
MAX_MS: Final = 2**53


@attrs.define(eq=False)
class RetentionPolicies:
    """The lifetimes of messages, by room."""

    _states: StateStore
    _settings: RetentionSettings
    _clock: Clock
    _lifetimes: LoadingCache[RoomID, int | None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        entries: LruCache[RoomID, int | None] = LruCache("retention", max_entries=MAX_ROOMS)
        self._lifetimes = LoadingCache(entries, self._load)

    @classmethod
    def following(
        cls, feed: Feed, states: StateStore, settings: RetentionSettings, clock: Clock
    ) -> "RetentionPolicies":
        """Return policies that follow the feed."""
        policies = cls(states, settings, clock)
        feed.subscribe(EVENTS, policies._on_events, Interest.CHANGES)
        return policies

    async def lifetime_ms(self, room_id: RoomID) -> int | None:
        """Return how long messages of a room are kept; None: for ever."""
        return await self._lifetimes.get(room_id)

    async def hidden_before(self, room_id: RoomID) -> int:
        """Return the `origin_server_ts` (ms) of the oldest messages that are shown."""
        lifetime_ms = await self._lifetimes.get(room_id)
        return -MAX_MS if lifetime_ms is None else self._clock.now_ms() - lifetime_ms

    def described(self) -> dict[str, Any]:
        """Return the administrator's policy and bounds in the form for clients."""
        settings, policy = self._settings, self._settings.default_policy
        default = {"min_lifetime": policy.min_lifetime, "max_lifetime": policy.max_lifetime}
        bounds = {"min": settings.allowed_lifetime_min, "max": settings.allowed_lifetime_max}
        return {
            "policies": {"*": _given(default)},
            "limits": {"max_lifetime": _given(bounds)} if _given(bounds) else {},
        }

    async def _load(self, room_id: RoomID) -> int | None:
        stored = await self._states.current_event(room_id, RETENTION)
        return effective_ms({} if stored is None else content_of(stored), self._settings)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            is_policy = row.type == RETENTION or row.state_changes is not None
            if is_policy or row.redaction_applies:
                self._lifetimes.invalidate(RoomID(row.room_id))


def effective_ms(content: Mapping[str, Any], settings: RetentionSettings) -> int | None:
    """Return the lifetime of messages (ms) under a room's policy; None: for ever."""
    asked = content.get("max_lifetime")
    lifetime_ms = settings.default_policy.max_lifetime
    if isinstance(asked, int) and not isinstance(asked, bool) and 0 <= asked <= MAX_MS:
        lifetime_ms = asked
    if lifetime_ms is None:
        return None
    if settings.allowed_lifetime_min is not None:
        lifetime_ms = max(lifetime_ms, settings.allowed_lifetime_min)
    if settings.allowed_lifetime_max is not None:
        lifetime_ms = min(lifetime_ms, settings.allowed_lifetime_max)
    return lifetime_ms


def _given(values: Mapping[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}
