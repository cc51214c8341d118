"""Profiles of this server's users.

`CacheRow("profiles", user_ids)` on the stream `caches` tells every process of a change. A new name
or avatar is noted in the commit that changes it; rooms show it after that (RoomProfiles).

Spec: client-server API, Profiles.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import orjson

from hs.core.errors import (
    BadJson,
    Forbidden,
    GuestForbidden,
    InvalidParam,
    KeyTooLarge,
    NotFound,
    ProfileTooLarge,
)
from hs.core.ids import ServerName, UserID, server_of
from hs.core.requester import Requester
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow
from hs.repl.streams import CACHES
from hs.services.accounts.limits.appservice_users import AbsentUsers
from hs.settings.sections.accounts import RegistrationSettings
from hs.storage.accounts import profiles
from hs.storage.database import Database, Tx

PROFILES = "profiles"
DISPLAYNAME = "displayname"
AVATAR_URL = "avatar_url"
MAX_PROFILE_BYTES = 65_536
MAX_KEY_BYTES = 255
MAX_DISPLAYNAME_CHARS = 256
MAX_AVATAR_URL_CHARS = 1000
CACHED = 10_000

_KEY = re.compile(r"displayname|avatar_url|[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+", re.ASCII)


class RemoteProfiles(Protocol):
    """Asks other servers for the profiles of their users."""

    async def profile_of(self, user_id: UserID) -> Mapping[str, Any]:
        """Give a profile. Raises: NotFound, RemoteFault."""
        ...


class NoRemoteProfiles:
    """The answer of a server without federation."""

    async def profile_of(self, user_id: UserID) -> Mapping[str, Any]:
        raise NotFound("Not a user of this server")


@attrs.define(eq=False)
class Profiles:
    """Reads and writes profiles.

    With `is_shared` others write them too, and what they did may not have come here when its user
    asks for the next thing; without, what is in memory is always right.
    """

    _database: Database
    _feed: Feed
    _caches: MemoryWriter[CacheRow]
    _server_name: ServerName
    _settings: RegistrationSettings
    _remote: RemoteProfiles
    _absent: AbsentUsers
    _is_shared: bool = attrs.field(default=False, kw_only=True)
    _known: LoadingCache[UserID, Mapping[str, Any] | None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        entries: LruCache[UserID, Mapping[str, Any] | None] = LruCache(PROFILES, max_entries=CACHED)
        self._known = LoadingCache(entries, self._load)
        self._feed.subscribe(CACHES, self._on_caches)

    async def of_local(self, user_id: UserID) -> Mapping[str, Any]:
        """Give the profile of a user of this server; empty when there is none."""
        find = self._find_stored if self._is_shared else self._find
        return await find(user_id) or {}

    async def get(self, user_id: UserID) -> Mapping[str, Any]:
        """Give a user's profile, whichever process has just changed it.

        Raises: NotFound, RemoteFault.
        """
        if server_of(user_id) != self._server_name:
            return await self._remote.profile_of(user_id)
        profile = await self._find_stored(user_id)
        if profile is None:
            raise NotFound("There is no such user")
        return profile

    async def get_field(self, user_id: UserID, field: str) -> dict[str, Any]:
        """Give a profile with one field only.

        Raises: NotFound, InvalidParam, KeyTooLarge.
        """
        check_key(field)
        profile = await self.get(user_id)
        if field in profile:
            return {field: profile[field]}
        if field in (DISPLAYNAME, AVATAR_URL):
            # These two were optional before there were other fields, and clients still ask for
            # them without expecting an error.
            return {}
        raise NotFound("The profile has no such field")

    async def set_field(
        self, requester: Requester, user_id: UserID, field: str, value: Any
    ) -> None:
        """Set a field.

        Raises: Forbidden, NotFound, InvalidParam, BadJson, KeyTooLarge, ProfileTooLarge.
        """
        check_key(field)
        self._check_may_change(requester, user_id, field)
        if requester.user_id != user_id and await self._load(user_id) is None:
            raise NotFound("There is no such user")
        if field in (DISPLAYNAME, AVATAR_URL) and (value is None or value == ""):
            await self._database.write(_delete, user_id, field)
        else:
            _check_value(field, value)
            await self._database.write(_put, user_id, field, value)
        self.announce(user_id)

    async def delete_field(self, requester: Requester, user_id: UserID, field: str) -> None:
        """Take a field away, if it is there.

        Raises: Forbidden, InvalidParam, KeyTooLarge.
        """
        check_key(field)
        self._check_may_change(requester, user_id, field)
        await self._database.write(_delete, user_id, field)
        self.announce(user_id)

    def announce(self, user_id: UserID) -> None:
        """Tell every process that a profile has changed; after the commit."""
        self._caches.append_nowait([CacheRow(PROFILES, (user_id,))])

    def _check_may_change(self, requester: Requester, user_id: UserID, field: str) -> None:
        if requester.user_id != user_id and not requester.is_admin:
            raise Forbidden("You can only change your own profile")
        if server_of(user_id) != self._server_name:
            raise Forbidden("Not a user of this server")
        if requester.is_guest and field != DISPLAYNAME:
            raise GuestForbidden("Guests may change their display name only")
        if requester.is_admin:
            return
        if field == DISPLAYNAME and not self._settings.enable_set_displayname:
            raise Forbidden("Changing the display name is disabled on this server")
        if field == AVATAR_URL and not self._settings.enable_set_avatar_url:
            raise Forbidden("Changing the avatar is disabled on this server")

    async def _find(self, user_id: UserID) -> Mapping[str, Any] | None:
        profile = await self._known.get(user_id)
        if profile is None and await self._absent.make_user(user_id):
            self._known.invalidate(user_id)
            profile = await self._known.get(user_id)
        return profile

    async def _find_stored(self, user_id: UserID) -> Mapping[str, Any] | None:
        profile = await self._load(user_id)
        if profile is None and await self._absent.make_user(user_id):
            profile = await self._load(user_id)
        return profile

    async def _load(self, user_id: UserID) -> Mapping[str, Any] | None:
        return await self._database.read(profiles.of_user, user_id)

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._known.invalidate_all()
        for _, row in batch.rows:
            if row.cache == PROFILES:
                if not row.keys:
                    self._known.invalidate_all()
                for user_id in row.keys:
                    self._known.invalidate(UserID(user_id))


def check_key(field: str) -> None:
    """Refuse what is no name of a field.

    Raises: KeyTooLarge, InvalidParam.
    """
    if len(field.encode()) > MAX_KEY_BYTES:
        raise KeyTooLarge(f"The name of a field has at most {MAX_KEY_BYTES} bytes")
    if _KEY.fullmatch(field) is None:
        raise InvalidParam("Not the name of a profile field")


def _check_value(field: str, value: Any) -> None:
    if field in (DISPLAYNAME, AVATAR_URL, "m.tz"):
        if not isinstance(value, str):
            raise BadJson(f"'{field}' must be a string")
        limit = MAX_AVATAR_URL_CHARS if field == AVATAR_URL else MAX_DISPLAYNAME_CHARS
        if len(value) > limit:
            raise InvalidParam(f"'{field}' has at most {limit} characters")
        if "\0" in value:
            raise InvalidParam(f"'{field}' holds a NUL character")


async def _put(tx: Tx, user_id: str, field: str, value: Any) -> None:
    profile = await profiles.of_user(tx, user_id) or {}
    profile[field] = value
    if len(orjson.dumps(profile)) > MAX_PROFILE_BYTES:
        raise ProfileTooLarge(f"A profile has at most {MAX_PROFILE_BYTES} bytes")
    await profiles.put(tx, user_id, field, value)
    await _note(tx, user_id, field)


async def _delete(tx: Tx, user_id: str, field: str) -> None:
    await profiles.delete(tx, user_id, field)
    await _note(tx, user_id, field)


async def _note(tx: Tx, user_id: str, field: str) -> None:
    # The rooms' part reads it: what is noted in this commit is shown, whoever ends meanwhile.
    if field in (DISPLAYNAME, AVATAR_URL):
        await profiles.note_change(tx, user_id)
