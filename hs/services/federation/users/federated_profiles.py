"""The profiles of users of other servers: requested on demand, and cached for a minute.

A member event of the user that shows another display name or avatar than the cached profile ends
that minute: clients that have just seen the new name ask for the profile. The profile is requested
again rather than taken from the event, as a user may have another name in one room. So a flood of
member events costs look-ups in a cache, and a request to the server that sends them for each
request of a client.

Spec: server-server API, Querying for information.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import attrs
import orjson

from hs.core.canonical_json import encode_lenient, memory_of
from hs.core.errors import BadJson, Forbidden, NotFound, RemoteFault
from hs.core.events import event_types
from hs.core.ids import UserID, server_of
from hs.core.streams import EVENTS, EventRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.freshness import Freshness
from hs.services.accounts.profiles.profile_writer import AVATAR_URL, DISPLAYNAME
from hs.services.federation.requests.users import query_profile
from hs.services.federation_client.client import FederationClient

MAX_AGE_MS: Final = 60_000
MAX_CACHED_BYTES: Final = 16 << 20
_ENTRY_BYTES: Final = 1000
_TEXT_FIELDS: Final = (DISPLAYNAME, AVATAR_URL)


class _ProfileQuery(NamedTuple):
    user_id: UserID
    field: str | None


class _KnownProfile(NamedTuple):
    profile: Mapping[str, Any] | None  # None: the server has no such user or field
    expires_ms: int
    weight: int


@attrs.define(eq=False)
class FederatedProfiles:
    """The RemoteProfiles of a server with federation. Only responses are cached, not failures.

    `freshness` is None for a server's only process, which has seen all events.
    """

    _client: FederationClient
    _clock: Clock
    _feed: Feed
    _freshness: Freshness | None
    _known: LruCache[_ProfileQuery, _KnownProfile] = attrs.field(init=False)
    _cache: LoadingCache[_ProfileQuery, _KnownProfile] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._known = LruCache(
            "remote_profiles",
            max_weight=MAX_CACHED_BYTES,
            weigh=lambda _, known: _ENTRY_BYTES + known.weight,
        )
        self._cache = LoadingCache(self._known, self._ask)
        self._feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    async def profile_of(self, user_id: UserID, field: str | None = None) -> Mapping[str, Any]:
        """Return a profile, or only one field of it.

        Raises: NotFound, Forbidden, RemoteFault.
        """
        query = _ProfileQuery(user_id, field)
        if query in self._known and self._freshness is not None:
            # The client may have seen a newer member event through another process.
            await self._freshness.catch_up()
        known = await self._cache.get(query)
        if known.expires_ms <= self._clock.now_ms():
            self._cache.invalidate(query)
            known = await self._cache.get(query)
        if known.profile is None:
            raise NotFound("User not found")
        return known.profile

    async def _ask(self, query: _ProfileQuery) -> _KnownProfile:
        """Ask the user's server; the profile is None if it says that there is no such one."""
        expires_ms = self._clock.now_ms() + MAX_AGE_MS
        try:
            response = await query_profile(self._client, *query)
        except RemoteFault as fault:
            if fault.error is not None and fault.error.errcode == "M_NOT_FOUND":
                return _KnownProfile(None, expires_ms, 0)
            if fault.error is not None and fault.error.errcode == "M_FORBIDDEN":
                raise Forbidden("The user's server does not show profiles") from None
            raise
        profile = {name: value for name, value in response.items() if _is_valid(name, value)}
        try:
            return _KnownProfile(profile, expires_ms, memory_of(encode_lenient(profile)))
        except BadJson as fault:
            server = server_of(query.user_id)
            raise RemoteFault(server, f"its response is malformed: {fault}", retry=False) from None

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if batch.reset:
            self._cache.invalidate_all()
        for _, row in batch.rows:
            if (
                row.type == event_types.MEMBER
                and row.membership == event_types.JOIN
                and row.sender == row.state_key
                and row.is_shown
            ):
                self._compare(UserID(row.sender), row.pdu)

    def _compare(self, user_id: UserID, pdu: bytes | None) -> None:
        """Invalidate what a member event contradicts; of local users, nothing is cached."""
        queries = [_ProfileQuery(user_id, field) for field in (None, *_TEXT_FIELDS)]
        cached = self._known.cached_among(queries)
        shown = _content_of(pdu) if cached else None
        for query in queries:
            known = self._known.get(query) if query in cached else None
            # A profile that is not cached may be on its way here.
            if known is None or shown is None or not _agrees(known.profile or {}, shown, query):
                self._cache.invalidate(query)


def _is_valid(name: str, value: object) -> bool:
    return isinstance(value, str) if name in _TEXT_FIELDS else value is not None


def _content_of(pdu: bytes | None) -> Mapping[str, Any] | None:
    content = None if pdu is None else orjson.loads(pdu).get("content")
    return content if isinstance(content, dict) else None


def _agrees(profile: Mapping[str, Any], shown: Mapping[str, Any], query: _ProfileQuery) -> bool:
    fields = _TEXT_FIELDS if query.field is None else (query.field,)
    return all(profile.get(field) == shown.get(field) for field in fields)
