"""From access tokens to requesters: a cache in each process, emptied everywhere at once.

Whoever revokes tokens or changes what a user may do announces it on the stream `caches`, with
TOKENS and the tokens' hashes, or with USERS and user IDs.
"""

from collections.abc import Callable, Iterable

import attrs

from hs.core.errors import UnknownToken
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow
from hs.repl.streams import CACHES
from hs.services.accounts.limits.appservice_users import Appservices
from hs.services.accounts.limits.consent_requirement import ConsentRule
from hs.services.accounts.sessions.last_seen import LastSeen
from hs.services.accounts.sessions.token_format import hash_of
from hs.storage.accounts import tokens
from hs.storage.accounts.tokens import FoundToken
from hs.storage.database import Database

TOKENS = "access_tokens"
USERS = "users"
DEFAULT_ENTRIES = 50_000
MOST_HELD = 100  # hashes of one user, before those are dropped that the cache has dropped


@attrs.frozen
class _Known:
    requester: Requester
    valid_until_ms: int | None


@attrs.define(eq=False)
class Revocations:
    """Tells all processes which tokens are void; call after the commit that made them so."""

    _caches: MemoryWriter[CacheRow]

    def tokens(self, hashes: Iterable[str]) -> None:
        """Announce that tokens are gone."""
        keys = tuple(hashes)
        if keys:
            self._caches.append_nowait([CacheRow(TOKENS, keys)])

    def users(self, *user_ids: str) -> None:
        """Announce that users are not what they were: locked, made administrators, …."""
        if user_ids:
            self._caches.append_nowait([CacheRow(USERS, user_ids)])


@attrs.define(eq=False)
class TokenAuthenticator:
    """Knows recently used tokens by heart and looks the others up.

    A token that is refused is not remembered, so tokens take effect at once as well. While
    `hears_others` says no, revocations of other processes do not arrive, and nothing is trusted
    but the database.
    """

    _database: Database
    _feed: Feed
    _clock: Clock
    _appservices: Appservices
    _last_seen: LastSeen
    _revocations: Revocations
    _consent: ConsentRule
    _max_entries: int = DEFAULT_ENTRIES
    _hears_others: Callable[[], bool] = attrs.field(default=lambda: True, kw_only=True)
    _tracks_services: bool = attrs.field(default=False, kw_only=True)
    cache: LruCache[str, _Known] = attrs.field(init=False)
    _of_user: dict[str, set[str]] = attrs.field(init=False, factory=dict)
    _changes: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.cache = LruCache("access_tokens", max_entries=self._max_entries)
        self._feed.subscribe(CACHES, self._on_caches)

    def authenticate_nowait(self, token: str, client_ip: str, user_agent: str) -> Requester | None:
        """Give the requester if the token is known and still valid; None means ask."""
        known = self.cache.get(hash_of(token))
        if known is None or not self._is_valid(known.valid_until_ms) or not self._hears_others():
            return None
        requester = known.requester
        if requester.device_id is not None:
            self._last_seen.note(requester.user_id, requester.device_id, client_ip, user_agent)
        return requester

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        """Give the requester of a token.

        Raises: UnknownToken, with `soft_logout` when the token ran out and the device lives on.
        """
        requester = self._appservices.requester_of(token)
        if requester is not None:
            return requester
        token_hash = hash_of(token)
        changes = self._changes
        found = await self._database.read(tokens.find, token_hash)
        if found is None or found.is_deactivated:
            raise UnknownToken("The access token is not known", soft_logout=False)
        if not self._is_valid(found.valid_until_ms):
            raise UnknownToken("The access token has expired", soft_logout=True)
        requester = self._requester(found)
        if requester.device_id is not None:
            self._last_seen.note(requester.user_id, requester.device_id, client_ip, user_agent)
        if found.refresh_id is not None and not found.is_used:
            # Its first use ends the tokens before it. The next use will remember it.
            ended = await self._database.write(tokens.mark_used, found.token_id, found.refresh_id)
            self._revocations.tokens(ended)
        elif changes == self._changes:
            # Nothing was revoked while we read; otherwise this might be what was.
            self._remember(token_hash, _Known(requester, found.valid_until_ms))
        return requester

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Give the user an application service speaks for. Raises: Forbidden, Exclusive."""
        return await self._appservices.acting_as(requester, user_id, device_id)

    def _requester(self, found: FoundToken) -> Requester:
        return Requester(
            UserID(found.user_id),
            found.device_id,
            found.token_id,
            is_guest=found.is_guest,
            is_admin=found.is_admin,
            shadow=found.is_shadow_banned,
            locked=found.is_locked,
            suspended=found.is_suspended,
            consent_due=self._consent.due(
                found.user_id, found.consent_version, is_exempt=found.is_exempt
            ),
        )

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Note that an application service uses a device, if that is wanted."""
        if self._tracks_services and requester.device_id is not None:
            self._last_seen.note(requester.user_id, requester.device_id, client_ip, user_agent)

    def _is_valid(self, valid_until_ms: int | None) -> bool:
        return valid_until_ms is None or self._clock.now_ms() < valid_until_ms

    def _remember(self, token_hash: str, known: _Known) -> None:
        if len(self._of_user) > 2 * self._max_entries:
            # The index keeps users whose tokens the cache has dropped; start both afresh.
            self._forget_all()
        self.cache.put(token_hash, known)
        held = self._of_user.setdefault(known.requester.user_id, set())
        if len(held) > MOST_HELD:
            held.intersection_update([one for one in held if one in self.cache])
        held.add(token_hash)

    def _forget_all(self) -> None:
        self.cache.clear()
        self._of_user.clear()

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._changes += 1
            self._forget_all()
        for _, row in batch.rows:
            if row.cache not in (TOKENS, USERS):
                continue
            self._changes += 1
            if not row.keys:
                self._forget_all()
            elif row.cache == TOKENS:
                self._forget(row.keys)
            else:
                for user_id in row.keys:
                    self._forget(self._of_user.pop(user_id, ()))

    def _forget(self, hashes: Iterable[str]) -> None:
        for token_hash in hashes:
            known = self.cache.get(token_hash)
            if known is None:
                continue
            self.cache.pop(token_hash)
            held = self._of_user.get(known.requester.user_id)
            if held is not None:
                held.discard(token_hash)
