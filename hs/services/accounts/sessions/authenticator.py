"""Authentication of access tokens, with a cache in each process that follows revocations.

Rules:

- Deleted tokens, and changes of a user's rights (lock, suspension, consent, administrator), are
  announced on the stream `caches` after the commit: TOKENS with token hashes, USERS with user IDs.
  Rows without keys, and resets of the stream, empty the cache.
- Only accepted tokens are cached. A new token is therefore valid in all processes immediately.
- A token is cached only if no revocation arrived while it was being read from the database; the
  row that was read might be the revoked one. A revocation that arrives later removes the entry.
- The first use of a token from a refresh ends the tokens that preceded it, so that use must reach
  the database: only the second use puts the token in the cache.
- While `hears_others()` is false, revocations of other processes do not arrive, and every token is
  read from the database.
- `_hashes_by_user` finds the entries of a user. The LRU cache evicts entries without updating it,
  so it is pruned per user beyond MAX_HASHES_PER_USER, and dropped together with the cache if it
  has too many users. It always contains every cached token, or a revocation would miss some.
"""

from collections.abc import Callable, Iterable

import attrs

from hs.core.errors import UnknownToken
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.streams import CACHES, CacheRow
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.services.accounts.limits.appservice_users import Appservices
from hs.services.accounts.limits.consent_requirement import ConsentRequirement
from hs.services.accounts.sessions.last_seen import LastSeen
from hs.services.accounts.sessions.token_format import hash_of
from hs.storage.accounts import tokens
from hs.storage.accounts.tokens import AccessTokenOwner
from hs.storage.database import Database

TOKENS = "access_tokens"
USERS = "users"
DEFAULT_ENTRIES = 50_000
MAX_HASHES_PER_USER = 100  # beyond this, hashes of evicted tokens are pruned from the index


@attrs.frozen
class _CachedToken:
    requester: Requester
    valid_until_ms: int | None


@attrs.define(eq=False)
class Revocations:
    """Announces revocations to all processes; call its methods after the commit."""

    _caches: MemoryWriter[CacheRow]

    def announce_tokens(self, hashes: Iterable[str]) -> None:
        """Announce deleted tokens, by their hashes."""
        keys = tuple(hashes)
        if keys:
            self._caches.append_nowait([CacheRow(TOKENS, keys)])

    def announce_users(self, *user_ids: str) -> None:
        """Announce users whose rights changed: locked, suspended, made administrators, ...."""
        if user_ids:
            self._caches.append_nowait([CacheRow(USERS, user_ids)])


@attrs.define(eq=False)
class TokenAuthenticator:
    """The authenticator of access tokens: a cache in front of the database."""

    _database: Database
    _feed: Feed
    _clock: Clock
    _appservices: Appservices
    _last_seen: LastSeen
    _revocations: Revocations
    _consent: ConsentRequirement
    _max_entries: int = DEFAULT_ENTRIES
    _hears_others: Callable[[], bool] = attrs.field(default=lambda: True, kw_only=True)
    _tracks_services: bool = attrs.field(default=False, kw_only=True)
    cache: LruCache[str, _CachedToken] = attrs.field(init=False)
    _hashes_by_user: dict[str, set[str]] = attrs.field(init=False, factory=dict)
    _revocation_count: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.cache = LruCache("access_tokens", max_entries=self._max_entries)
        self._feed.subscribe(CACHES, self._on_caches)

    def authenticate_nowait(self, token: str, client_ip: str, user_agent: str) -> Requester | None:
        """Return the requester if the token is cached and valid; None if it must be looked up."""
        cached = self.cache.get(hash_of(token))
        if cached is None or not self._is_valid(cached.valid_until_ms) or not self._hears_others():
            return None
        requester = cached.requester
        if requester.device_id is not None:
            self._last_seen.note(requester.user_id, requester.device_id, client_ip, user_agent)
        return requester

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        """Return the requester of a token.

        Raises: UnknownToken, with `soft_logout` if the token has expired but its device exists.
        """
        requester = self._appservices.requester_of(token)
        if requester is not None:
            return requester
        token_hash = hash_of(token)
        revocation_count = self._revocation_count
        token_record = await self._database.read(tokens.find, token_hash)
        if token_record is None or token_record.is_deactivated:
            raise UnknownToken("Unrecognised access token", soft_logout=False)
        if not self._is_valid(token_record.valid_until_ms):
            raise UnknownToken("The access token has expired", soft_logout=True)
        requester = self._requester_from(token_record)
        if requester.device_id is not None:
            self._last_seen.note(requester.user_id, requester.device_id, client_ip, user_agent)
        if token_record.refresh_id is not None and not token_record.is_used:
            # The first use ends the preceding tokens. The next use will be cached.
            ended_hashes = await self._database.write(
                tokens.mark_used, token_record.token_id, token_record.refresh_id
            )
            self._revocations.announce_tokens(ended_hashes)
        elif revocation_count == self._revocation_count:
            # No revocation arrived while the token was read, so it cannot be a revoked one.
            self._add(token_hash, _CachedToken(requester, token_record.valid_until_ms))
        return requester

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Return the requester that a service acts as. Raises: Forbidden, Exclusive."""
        return await self._appservices.acting_as(requester, user_id, device_id)

    def _requester_from(self, token_record: AccessTokenOwner) -> Requester:
        return Requester(
            UserID(token_record.user_id),
            token_record.device_id,
            token_record.token_id,
            is_guest=token_record.is_guest,
            is_admin=token_record.is_admin,
            is_shadow_banned=token_record.is_shadow_banned,
            locked=token_record.is_locked,
            suspended=token_record.is_suspended,
            required_consent=self._consent.due(
                token_record.user_id, token_record.consent_version, is_exempt=token_record.is_exempt
            ),
        )

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Record the use of a device by an application service, if configured."""
        if self._tracks_services and requester.device_id is not None:
            self._last_seen.note(requester.user_id, requester.device_id, client_ip, user_agent)

    def _is_valid(self, valid_until_ms: int | None) -> bool:
        return valid_until_ms is None or self._clock.now_ms() < valid_until_ms

    def _add(self, token_hash: str, token: _CachedToken) -> None:
        if len(self._hashes_by_user) > 2 * self._max_entries:
            # Most users in the index have only evicted tokens: start again with both empty.
            self._remove_all()
        self.cache.put(token_hash, token)
        hashes = self._hashes_by_user.setdefault(token.requester.user_id, set())
        if len(hashes) > MAX_HASHES_PER_USER:
            hashes.intersection_update([cached for cached in hashes if cached in self.cache])
        hashes.add(token_hash)

    def _remove_all(self) -> None:
        self.cache.clear()
        self._hashes_by_user.clear()

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._revocation_count += 1
            self._remove_all()
        for _, row in batch.rows:
            if row.cache not in (TOKENS, USERS):
                continue
            self._revocation_count += 1
            if not row.keys:
                self._remove_all()
            elif row.cache == TOKENS:
                self._remove(row.keys)
            else:
                for user_id in row.keys:
                    self._remove(self._hashes_by_user.pop(user_id, ()))

    def _remove(self, hashes: Iterable[str]) -> None:
        for token_hash in hashes:
            token = self.cache.get(token_hash)
            if token is None:
                continue
            self.cache.pop(token_hash)
            user_hashes = self._hashes_by_user.get(token.requester.user_id)
            if user_hashes is not None:
                user_hashes.discard(token_hash)
