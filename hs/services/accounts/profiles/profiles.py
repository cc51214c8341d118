"""Profiles of this server's users.

A change is announced to all processes by `CacheRow("profiles", user_ids)` on the stream `caches`.
In the same transaction it is recorded for clients that follow profiles (stream `profile_updates`),
and a changed display name or avatar for RoomProfiles, which updates the user's member events even
after a crash.

Spec: client-server API, Profiles.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from hs.core.errors import (
    BadJson,
    Forbidden,
    GuestForbidden,
    InvalidParam,
    KeyTooLarge,
    NotFound,
)
from hs.core.ids import ServerName, UserID, server_of
from hs.core.requester import Requester
from hs.core.streams import CACHES, CacheRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.services.accounts.limits.appservice_users import UserQueries
from hs.services.accounts.profiles.profile_writer import AVATAR_URL, DISPLAYNAME, ProfileWriter
from hs.settings.sections.accounts import RegistrationSettings
from hs.storage.accounts import profiles
from hs.storage.database import Database

PROFILES = "profiles"
MAX_KEY_BYTES = 255
MAX_DISPLAYNAME_CHARS = 256
MAX_AVATAR_URL_CHARS = 1000
CACHED = 10_000

_KEY = re.compile(r"displayname|avatar_url|[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+", re.ASCII)


class RemoteProfiles(Protocol):
    """A client for the profiles of users of other servers."""

    async def profile_of(self, user_id: UserID, field: str | None = None) -> Mapping[str, Any]:
        """Return a profile, or only one field of it. Raises: NotFound, Forbidden, RemoteFault."""
        ...


class NoRemoteProfiles:
    """The implementation for a server without federation."""

    async def profile_of(self, user_id: UserID, field: str | None = None) -> Mapping[str, Any]:
        raise NotFound("The user is not a user of this server")


@attrs.define(eq=False)
class Profiles:
    """The profiles of local users.

    With `is_shared`, other processes change profiles as well, and a change that a user made through
    another process may not have reached this cache by the user's next request. Reads that must see
    such changes then bypass the cache.
    """

    _database: Database
    _feed: Feed
    _caches: MemoryWriter[CacheRow]
    _writer: ProfileWriter
    _server_name: ServerName
    _settings: RegistrationSettings
    _remote: RemoteProfiles
    _absent: UserQueries
    _is_shared: bool = attrs.field(default=False, kw_only=True)
    _cache: LoadingCache[UserID, Mapping[str, Any] | None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        entries: LruCache[UserID, Mapping[str, Any] | None] = LruCache(PROFILES, max_entries=CACHED)
        self._cache = LoadingCache(entries, self._load)
        self._feed.subscribe(CACHES, self._on_caches)

    async def local_profile(self, user_id: UserID) -> Mapping[str, Any]:
        """Return the profile of a local user; empty if there is no such user."""
        load = self._load_stored if self._is_shared else self._load_cached
        return await load(user_id) or {}

    async def get(self, user_id: UserID) -> Mapping[str, Any]:
        """Return a user's profile from the database or from its server.

        Raises: NotFound, Forbidden, RemoteFault.
        """
        if server_of(user_id) != self._server_name:
            return await self._remote.profile_of(user_id)
        profile = await self._load_stored(user_id)
        if profile is None:
            raise NotFound("User not found")
        return profile

    async def get_field(self, user_id: UserID, field: str) -> dict[str, Any]:
        """Return the profile reduced to one field.

        Raises: NotFound, Forbidden, InvalidParam, KeyTooLarge, RemoteFault.
        """
        check_key(field)
        if server_of(user_id) != self._server_name:
            profile = await self._remote.profile_of(user_id, field)
        else:
            profile = await self.get(user_id)
        if field in profile:
            return {field: profile[field]}
        if field in (DISPLAYNAME, AVATAR_URL):
            # Before arbitrary fields existed, an unset display name or avatar was not an error,
            # and clients still rely on that.
            return {}
        raise NotFound("The profile has no such field")

    async def set_field(
        self, requester: Requester, user_id: UserID, field: str, value: Any
    ) -> None:
        """Set a profile field.

        Raises: Forbidden, NotFound, InvalidParam, BadJson, KeyTooLarge, ProfileTooLarge.
        """
        check_key(field)
        self._check_may_change(requester, user_id, field)
        if requester.user_id != user_id and await self._load(user_id) is None:
            raise NotFound("User not found")
        if field in (DISPLAYNAME, AVATAR_URL) and (value is None or value == ""):
            await self._writer.delete_field(user_id, field)
        else:
            _check_value(field, value)
            await self._writer.put_field(user_id, field, value)
        self.announce(user_id)

    async def delete_field(self, requester: Requester, user_id: UserID, field: str) -> None:
        """Delete a profile field, if it is set.

        Raises: Forbidden, InvalidParam, KeyTooLarge.
        """
        check_key(field)
        self._check_may_change(requester, user_id, field)
        await self._writer.delete_field(user_id, field)
        self.announce(user_id)

    def announce(self, user_id: UserID) -> None:
        """Announce a changed profile to all processes; call it after the commit."""
        self._caches.append_nowait([CacheRow(PROFILES, (user_id,))])

    def _check_may_change(self, requester: Requester, user_id: UserID, field: str) -> None:
        if requester.user_id != user_id and not requester.is_admin:
            raise Forbidden("You can only change your own profile")
        if server_of(user_id) != self._server_name:
            raise Forbidden("The user is not a user of this server")
        if requester.is_guest and field != DISPLAYNAME:
            raise GuestForbidden("Guests may change their display name only")
        if requester.is_admin:
            return
        if field == DISPLAYNAME and not self._settings.enable_set_displayname:
            raise Forbidden("Changing the display name is disabled on this server")
        if field == AVATAR_URL and not self._settings.enable_set_avatar_url:
            raise Forbidden("Changing the avatar is disabled on this server")

    async def _load_cached(self, user_id: UserID) -> Mapping[str, Any] | None:
        profile = await self._cache.get(user_id)
        if profile is None and await self._absent.query_user(user_id):
            self._cache.invalidate(user_id)
            profile = await self._cache.get(user_id)
        return profile

    async def _load_stored(self, user_id: UserID) -> Mapping[str, Any] | None:
        profile = await self._load(user_id)
        if profile is None and await self._absent.query_user(user_id):
            profile = await self._load(user_id)
        return profile

    async def _load(self, user_id: UserID) -> Mapping[str, Any] | None:
        return await self._database.read(profiles.get_profile, user_id)

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._cache.invalidate_all()
        for _, row in batch.rows:
            if row.cache == PROFILES:
                if not row.keys:
                    self._cache.invalidate_all()
                for user_id in row.keys:
                    self._cache.invalidate(UserID(user_id))


def check_key(field: str) -> None:
    """Reject invalid names of profile fields.

    Raises: KeyTooLarge, InvalidParam.
    """
    if len(field.encode()) > MAX_KEY_BYTES:
        raise KeyTooLarge(f"The name of a profile field must not exceed {MAX_KEY_BYTES} bytes")
    if _KEY.fullmatch(field) is None:
        raise InvalidParam("Invalid name of a profile field")


def _check_value(field: str, value: Any) -> None:
    if field in (DISPLAYNAME, AVATAR_URL, "m.tz"):
        if not isinstance(value, str):
            raise BadJson(f"'{field}' must be a string")
        limit = MAX_AVATAR_URL_CHARS if field == AVATAR_URL else MAX_DISPLAYNAME_CHARS
        if len(value) > limit:
            raise InvalidParam(f"'{field}' must not exceed {limit} characters")
        if "\0" in value:
            raise InvalidParam(f"'{field}' must not contain NUL characters")
