"""Identity assertion of application services: their tokens, and the users they act as.

User records and devices are cached. An entry is cached only if no change was announced while it was
being read, and removed when one is. While `hears_others()` is false, announcements of other
processes do not arrive, and the database is read for every request.

Spec: application service API, Identity assertion.
"""

from collections.abc import Callable
from typing import Final

import attrs

from hs.core.errors import Forbidden, InvalidParam, UnknownDevice, UserDeactivated
from hs.core.ids import UserID, parse_user_id
from hs.core.requester import Requester
from hs.core.streams import CACHES, DEVICE_LISTS, CacheRow, DeviceListRow
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.services.accounts.sessions.authenticator import USERS
from hs.services.accounts.sessions.token_format import hash_of
from hs.services.appservices.appservice_registry import Appservice, AppserviceRegistry
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from hs.storage.devices import devices

MAX_USERS: Final = 50_000


class AppserviceIdentities:
    """The requesters of application services' tokens, and of the users that they act as."""

    def __init__(
        self,
        registry: AppserviceRegistry,
        database: Database,
        feed: Feed,
        hears_others: Callable[[], bool] = lambda: True,
    ) -> None:
        self._registry = registry
        self._database = database
        self._hears_others = hears_others
        # By hash, so that the time of a lookup reveals nothing about a token.
        self._by_token = {
            hash_of(service.registration.as_token): service for service in registry.services
        }
        self._users: LruCache[str, UserRecord] = LruCache(
            "appservice_actors", max_entries=MAX_USERS
        )
        self._devices: LruCache[tuple[str, str], bool] = LruCache(
            "appservice_devices", max_entries=MAX_USERS
        )
        self._change_count = 0
        if registry.services:
            feed.subscribe(CACHES, self._on_caches)
            feed.subscribe(DEVICE_LISTS, self._on_device_lists)

    def requester_of(self, token: str) -> Requester | None:
        """Return the requester for a service's token: the service's own user."""
        if not self._by_token:
            return None
        service = self._by_token.get(hash_of(token))
        if service is None:
            return None
        return Requester(service.sender, appservice_id=service.id, is_rate_limit_exempt=True)

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Return the requester that a service acts as, optionally with a device.

        Raises: Forbidden, UnknownDevice.
        """
        service = self._registry.of_requester(requester)
        if user_id is not None and user_id != service.sender:
            requester = await self._requester_as(service, user_id)
        if device_id is None:
            return requester
        if not await self._has_device(requester.user_id, device_id):
            raise UnknownDevice("The user has no device with this ID")
        return attrs.evolve(requester, device_id=device_id)

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        """Return whether a service other than `but_for` reserves the user ID exclusively."""
        return self._registry.reserves(user_id, but_for)

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Return whether a user ID is in the namespaces of a service."""
        return self._registry.owns(appservice_id, user_id)

    async def _requester_as(self, service: Appservice, text: str) -> Requester:
        try:
            user_id = parse_user_id(text)
        except InvalidParam as error:
            raise Forbidden("The application service cannot act as this user") from error
        if service not in self._registry.owners(user_id):
            raise Forbidden("The application service cannot act as this user")
        user = await self._find_user(user_id)
        if user is None:
            raise Forbidden("The application service has not registered this user")
        if user.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        return Requester(
            user_id,
            is_guest=user.is_guest,
            is_admin=user.is_admin,
            is_shadow_banned=user.is_shadow_banned,
            locked=user.is_locked,
            suspended=user.is_suspended,
            appservice_id=service.id,
            is_rate_limit_exempt=not service.registration.rate_limited,
        )

    async def _find_user(self, user_id: UserID) -> UserRecord | None:
        cached = self._users.get(user_id)
        if cached is not None and self._hears_others():
            return cached
        change_count = self._change_count
        user = await self._database.read(users.find_user, user_id)
        if user is not None and change_count == self._change_count:
            self._users.put(user_id, user)
        return user

    async def _has_device(self, user_id: UserID, device_id: str) -> bool:
        key = (user_id, device_id)
        if self._devices.get(key) is not None and self._hears_others():
            return True
        change_count = self._change_count
        if "\0" in device_id or await self._database.read(devices.find, *key) is None:
            return False
        if change_count == self._change_count:
            self._devices.put(key, True)
        return True

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._clear()
        for _, row in batch.rows:
            if row.cache != USERS:
                continue
            self._change_count += 1
            if not row.keys:
                self._clear()
            for user_id in row.keys:
                self._users.pop(user_id)

    def _on_device_lists(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            if not self._registry.owners(row.user_id):
                continue
            self._change_count += 1
            if row.device_id is None:
                self._devices.clear()
            else:
                self._devices.pop((row.user_id, row.device_id))

    def _clear(self) -> None:
        self._change_count += 1
        self._users.clear()
        self._devices.clear()
