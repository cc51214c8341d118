"""Settings of presence, TURN, the user directory and caches."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.fields import inline_secret, secret, setting
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    FACTOR,
    OBJECT,
    STRING,
    ConfigLocation,
    Kind,
    map_of,
    one_or_more,
    optional,
)


def _read_tracking(value: Any, at: ConfigLocation) -> bool | str:
    return "untracked" if value == "untracked" else BOOLEAN.read(value, at)


TRACKING = Kind('boolean or "untracked"', _read_tracking, {"enum": [True, False, "untracked"]})


@attrs.frozen(kw_only=True)
class PresenceSettings:
    """Presence; "untracked" lets clients and modules set presence but publishes none."""

    enabled: bool | str = setting(
        TRACKING, True, "Track presence and publish it; `untracked` accepts it but publishes none."
    )
    include_offline_users_on_sync: bool = setting(
        BOOLEAN, False, "Include offline users in an initial sync."
    )
    last_active_granularity: int = setting(
        DURATION, 60_000, "Granularity of the time since a user was last active.", shown="1m"
    )
    sync_online_timeout: int = setting(
        DURATION, 30_000, "Time after the last sync when a user becomes offline.", shown="30s"
    )
    idle_timeout: int = setting(
        DURATION,
        300_000,
        "Time after the last activity when a user becomes unavailable.",
        shown="5m",
    )


@attrs.frozen(kw_only=True)
class TurnSettings:
    """TURN servers for voice and video calls."""

    turn_uris: tuple[str, ...] = setting(one_or_more(STRING), (), "URIs sent to clients.", shown=[])
    turn_shared_secret: str | None = secret("Secret shared with the TURN server.")
    turn_username: str | None = setting(
        optional(STRING), None, "User name, if the TURN server has no shared secret."
    )
    turn_password: str | None = inline_secret("Password for `turn_username`.")
    turn_user_lifetime: int = setting(
        DURATION,
        3_600_000,
        "Lifetime of the credentials generated from the shared secret.",
        shown="1h",
    )
    turn_allow_guests: bool = setting(BOOLEAN, True, "Allow guests to use the TURN server.")


@attrs.frozen(kw_only=True)
class UserDirectorySettings:
    """The user directory."""

    enabled: bool = setting(BOOLEAN, True, "Allow searches in the user directory.")
    search_all_users: bool = setting(
        BOOLEAN,
        False,
        "Find all users, not only those in public rooms or in a room with the searching user.",
    )
    prefer_local_users: bool = setting(BOOLEAN, False, "Rank local users higher.")
    exclude_remote_users: bool = setting(BOOLEAN, False, "Find local users only.")
    show_locked_users: bool = setting(BOOLEAN, False, "Find locked users too.")


@attrs.frozen(kw_only=True)
class CacheBlock:
    """Sizes and lifetimes of caches."""

    global_factor: float = setting(
        FACTOR, 0.5, "Factor by which the sizes of all caches are multiplied."
    )
    per_cache_factors: Mapping[str, float] = setting(
        map_of(FACTOR), MappingProxyType({}), "Factors of individual caches, by name.", shown={}
    )
    expire_caches: bool = setting(
        BOOLEAN, True, "Evict entries that were not used for a long time.", is_effective=False
    )
    cache_entry_ttl: int = setting(
        DURATION,
        1_800_000,
        "Time after which unused entries are evicted.",
        shown="30m",
        is_effective=False,
    )
    sync_response_cache_duration: int = setting(
        DURATION,
        120_000,
        "Time for which a /sync response is cached in case the client retries.",
        shown="2m",
    )
    cache_autotuning: Mapping[str, object] = setting(
        OBJECT, MappingProxyType({}), "Limits by memory usage.", shown={}, is_effective=False
    )

    def factor(self, cache: str) -> float:
        """Return the factor that applies to a cache."""
        return self.per_cache_factors.get(cache, self.global_factor)
