"""The profiles of users of other servers: requested on demand, and cached for a minute.

Spec: server-server API, Querying for information.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import attrs

from hs.core.errors import Forbidden, NotFound, RemoteFault
from hs.core.ids import UserID
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.services.accounts.profiles.profile_writer import AVATAR_URL, DISPLAYNAME
from hs.services.federation.requests.users import query_profile
from hs.services.federation_client.client import FederationClient

MAX_AGE_MS: Final = 60_000
MAX_CACHED: Final = 2_000
_TEXT_FIELDS: Final = (DISPLAYNAME, AVATAR_URL)


class _ProfileQuery(NamedTuple):
    user_id: UserID
    field: str | None


class _KnownProfile(NamedTuple):
    profile: Mapping[str, Any] | None  # None: the server has no such user or field
    expires_ms: int


@attrs.define(eq=False)
class FederatedProfiles:
    """The RemoteProfiles of a server with federation. Only responses are cached, not failures."""

    _client: FederationClient
    _clock: Clock
    _known: LruCache[_ProfileQuery, _KnownProfile] = attrs.field(init=False)
    _flights: SingleFlight[_ProfileQuery] = attrs.field(factory=SingleFlight, init=False)

    def __attrs_post_init__(self) -> None:
        self._known = LruCache("remote_profiles", max_entries=MAX_CACHED)

    async def profile_of(self, user_id: UserID, field: str | None = None) -> Mapping[str, Any]:
        """Return a profile, or only one field of it.

        Raises: NotFound, Forbidden, RemoteFault.
        """
        query = _ProfileQuery(user_id, field)
        now_ms = self._clock.now_ms()
        known = self._known.get(query)
        if known is None or known.expires_ms <= now_ms:
            profile = await self._flights.run(query, self._ask, query)
            known = _KnownProfile(profile, now_ms + MAX_AGE_MS)
            self._known.put(query, known)
        if known.profile is None:
            raise NotFound("User not found")
        return known.profile

    async def _ask(self, query: _ProfileQuery) -> Mapping[str, Any] | None:
        """Ask the user's server; return None if it says that there is no such profile."""
        try:
            response = await query_profile(self._client, *query)
        except RemoteFault as fault:
            if fault.error is not None and fault.error.errcode == "M_NOT_FOUND":
                return None
            if fault.error is not None and fault.error.errcode == "M_FORBIDDEN":
                raise Forbidden("The user's server does not show profiles") from None
            raise
        return {name: value for name, value in response.items() if _is_valid(name, value)}


def _is_valid(name: str, value: object) -> bool:
    return isinstance(value, str) if name in _TEXT_FIELDS else value is not None
