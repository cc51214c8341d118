"""Application services as requesters: their tokens, and the users they speak for.

Spec: application service API, Identity assertion.
"""

from collections.abc import Callable
from typing import Final

import attrs

from hs.core.errors import Forbidden, InvalidParam, UnknownDevice, UserDeactivated
from hs.core.ids import UserID, parse_user_id
from hs.core.requester import Requester
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import CacheRow, DeviceListRow
from hs.repl.streams import CACHES, DEVICE_LISTS
from hs.services.accounts.sessions.authenticator import USERS
from hs.services.accounts.sessions.token_format import hash_of
from hs.services.appservices.appservice_registry import Service, ServiceRegistry
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from hs.storage.devices import devices

MAX_USERS: Final = 50_000


class ServiceIdentities:
    """Turns services' tokens into requesters, and those into the users they speak for.

    While `hears_others` says no, that somebody was locked elsewhere does not arrive, and nothing
    is trusted but the database.
    """

    def __init__(
        self,
        registry: ServiceRegistry,
        database: Database,
        feed: Feed,
        hears_others: Callable[[], bool] = lambda: True,
    ) -> None:
        self._registry = registry
        self._database = database
        self._hears_others = hears_others
        # By the hash, so that the time of a look-up tells nothing of a token.
        self._by_token = {hash_of(one.registration.as_token): one for one in registry.services}
        self._users: LruCache[str, UserRecord] = LruCache(
            "appservice_actors", max_entries=MAX_USERS
        )
        self._devices: LruCache[tuple[str, str], bool] = LruCache(
            "appservice_devices", max_entries=MAX_USERS
        )
        self._changes = 0
        if registry.services:
            feed.subscribe(CACHES, self._on_caches)
            feed.subscribe(DEVICE_LISTS, self._on_device_lists)

    def requester_of(self, token: str) -> Requester | None:
        """Give the requester that a service's token stands for: its own user."""
        if not self._by_token:
            return None
        service = self._by_token.get(hash_of(token))
        if service is None:
            return None
        return Requester(service.sender, appservice_id=service.id, unlimited=True)

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Give the user a service speaks for, through a device if it names one.

        Raises: Forbidden, UnknownDevice.
        """
        service = self._registry.of_requester(requester)
        if user_id is not None and user_id != service.sender:
            requester = await self._user(service, user_id)
        if device_id is None:
            return requester
        if not await self._has_device(requester.user_id, device_id):
            raise UnknownDevice("The user has no such device")
        return attrs.evolve(requester, device_id=device_id)

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        """Tell whether a service other than `but_for` has the user ID for itself."""
        return self._registry.reserves(user_id, but_for)

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Tell whether a user ID is in the namespaces of a service."""
        return self._registry.owns(appservice_id, user_id)

    async def _user(self, service: Service, text: str) -> Requester:
        try:
            user_id = parse_user_id(text)
        except InvalidParam as error:
            raise Forbidden("Application service cannot masquerade as this user") from error
        if service not in self._registry.owners(user_id):
            raise Forbidden("Application service cannot masquerade as this user")
        user = await self._record(user_id)
        if user is None:
            raise Forbidden("Application service has not registered this user")
        if user.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        return Requester(
            user_id,
            is_guest=user.is_guest,
            is_admin=user.is_admin,
            shadow=user.is_shadow_banned,
            locked=user.is_locked,
            suspended=user.is_suspended,
            appservice_id=service.id,
            unlimited=not service.registration.rate_limited,
        )

    async def _record(self, user_id: UserID) -> UserRecord | None:
        known = self._users.get(user_id)
        if known is not None and self._hears_others():
            return known
        changes = self._changes
        found = await self._database.read(users.find_user, user_id)
        if found is not None and changes == self._changes:
            self._users.put(user_id, found)
        return found

    async def _has_device(self, user_id: UserID, device_id: str) -> bool:
        key = (user_id, device_id)
        if self._devices.get(key) is not None and self._hears_others():
            return True
        changes = self._changes
        if "\0" in device_id or await self._database.read(devices.find, *key) is None:
            return False
        if changes == self._changes:
            self._devices.put(key, True)
        return True

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._forget_all()
        for _, row in batch.rows:
            if row.cache != USERS:
                continue
            self._changes += 1
            if not row.keys:
                self._forget_all()
            for user_id in row.keys:
                self._users.pop(user_id)

    def _on_device_lists(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            if not self._registry.owners(row.user_id):
                continue
            self._changes += 1
            if row.device_id is None:
                self._devices.clear()
            else:
                self._devices.pop((row.user_id, row.device_id))

    def _forget_all(self) -> None:
        self._changes += 1
        self._users.clear()
        self._devices.clear()
