"""Settings of single features: presence, TURN, user directory, caches."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.fields import secret, setting
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    FACTOR,
    OBJECT,
    STRING,
    At,
    Kind,
    map_of,
    one_or_more,
    optional,
)


def _read_tracking(value: Any, at: At) -> bool | str:
    return "untracked" if value == "untracked" else BOOLEAN.read(value, at)


TRACKING = Kind('boolean or "untracked"', _read_tracking, {"enum": [True, False, "untracked"]})


@attrs.frozen(kw_only=True)
class PresenceSettings:
    """Who is online. `enabled` may be "untracked": shown to nobody but kept by the clients."""

    enabled: bool | str = setting(TRACKING, True, "Track presence and tell others.")
    include_offline_users_on_sync: bool = setting(
        BOOLEAN, False, "Name offline users in a first sync."
    )
    last_active_granularity: int = setting(
        DURATION, 60_000, "Steps of the time since somebody was active.", shown="1m"
    )
    sync_online_timeout: int = setting(
        DURATION, 30_000, "Offline so long after the last sync.", shown="30s"
    )
    idle_timeout: int = setting(
        DURATION, 300_000, "Idle so long after the last activity.", shown="5m"
    )


@attrs.frozen(kw_only=True)
class TurnSettings:
    """TURN servers for calls."""

    turn_uris: tuple[str, ...] = setting(
        one_or_more(STRING), (), "Addresses given to clients.", shown=[]
    )
    turn_shared_secret: str | None = secret("Secret shared with the TURN server.")
    turn_username: str | None = setting(
        optional(STRING), None, "User name, when the server has no shared secret."
    )
    turn_password: str | None = setting(optional(STRING), None, "The password to it.")
    turn_user_lifetime: int = setting(
        DURATION, 3_600_000, "How long credentials are valid.", shown="1h"
    )
    turn_allow_guests: bool = setting(BOOLEAN, True, "Guests may call.")


@attrs.frozen(kw_only=True)
class UserDirectorySettings:
    """The search for users."""

    enabled: bool = setting(BOOLEAN, True, "Answer searches.")
    search_all_users: bool = setting(
        BOOLEAN, False, "Find everybody, not only those one shares a room with."
    )
    prefer_local_users: bool = setting(BOOLEAN, False, "Rank users of this server higher.")
    exclude_remote_users: bool = setting(BOOLEAN, False, "Find users of this server only.")
    show_locked_users: bool = setting(BOOLEAN, False, "Find locked users as well.")


@attrs.frozen(kw_only=True)
class CacheBlock:
    """Sizes and lifetimes of caches."""

    global_factor: float = setting(FACTOR, 0.5, "Multiplies the size of every cache.")
    per_cache_factors: Mapping[str, float] = setting(
        map_of(FACTOR), MappingProxyType({}), "The factor of single caches, by name.", shown={}
    )
    expire_caches: bool = setting(
        BOOLEAN, True, "Forget entries that were not used for long.", is_effective=False
    )
    cache_entry_ttl: int = setting(
        DURATION, 1_800_000, "How long unused entries are kept.", shown="30m", is_effective=False
    )
    sync_response_cache_duration: int = setting(
        DURATION, 120_000, "How long an answer to /sync is kept for a retry.", shown="2m"
    )
    cache_autotuning: Mapping[str, object] = setting(
        OBJECT, MappingProxyType({}), "Bounds by memory use.", shown={}, is_effective=False
    )

    def factor(self, cache: str) -> float:
        """The factor that applies to a cache."""
        return self.per_cache_factors.get(cache, self.global_factor)
