"""How long rooms keep their messages: by their own state, within the administrator's bounds.

What is older is hidden at once, and purged later by `services/rooms/keeping`.

Spec: MSC1763, `m.room.retention`.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.ids import RoomID
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import EVENTS
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.state_store import StateStore
from hs.settings.sections.retention import RetentionSettings

RETENTION: Final = "m.room.retention"
MAX_ROOMS: Final = 50_000
MAX_MS: Final = 2**53


@attrs.define(eq=False)
class RetentionPolicies:
    """Knows the lifetime of each room's messages."""

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
        """Follow the feed."""
        policies = cls(states, settings, clock)
        feed.subscribe(EVENTS, policies._on_events)
        return policies

    async def lifetime_ms(self, room_id: RoomID) -> int | None:
        """Give how long a room's messages live; None: for ever."""
        return await self._lifetimes.get(room_id)

    async def hidden_before(self, room_id: RoomID) -> int:
        """Give the time (ms) of the oldest messages that are shown."""
        lifetime_ms = await self._lifetimes.get(room_id)
        return -MAX_MS if lifetime_ms is None else self._clock.now_ms() - lifetime_ms

    def described(self) -> dict[str, Any]:
        """Give the administrator's policy and bounds, as clients are told."""
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
            concerns = row.type == RETENTION or row.state_changes is not None
            if concerns or row.redaction_applies:
                self._lifetimes.invalidate(RoomID(row.room_id))


def effective_ms(content: Mapping[str, Any], settings: RetentionSettings) -> int | None:
    """Give the lifetime that a room's policy comes to."""
    wanted = content.get("max_lifetime")
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted <= MAX_MS:
        wanted = settings.default_policy.max_lifetime
    if wanted is None:
        return None
    if settings.allowed_lifetime_min is not None:
        wanted = max(wanted, settings.allowed_lifetime_min)
    if settings.allowed_lifetime_max is not None:
        wanted = min(wanted, settings.allowed_lifetime_max)
    return wanted


def _given(values: Mapping[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}
