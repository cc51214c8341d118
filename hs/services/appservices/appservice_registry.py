"""The registered application services and their namespaces.

Spec: application service API, Registration.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from hs.core.errors import Exclusive, Forbidden
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID
from hs.core.requester import Requester
from hs.lib.caching.lru_cache import LruCache
from hs.settings.sections.appservices import AppserviceNamespace, AppserviceRegistration

MAX_USERS: Final = 200_000
"""Limit on the users whose owning services are cached."""


@attrs.frozen(eq=False)
class Appservice:
    """An application service; `suffix` is the end of local user IDs, `:server_name`."""

    registration: AppserviceRegistration
    sender: UserID
    suffix: str

    @property
    def id(self) -> str:
        """ID of the registration."""
        return self.registration.id

    def owns_user(self, user_id: str) -> bool:
        """Return whether a user is local and in the service's namespaces, or its own user."""
        if user_id == self.sender:
            return True
        users = self.registration.namespaces.users
        return user_id.endswith(self.suffix) and _matches(users, user_id)

    def owns_alias(self, alias: str) -> bool:
        """Return whether an alias is in the service's namespaces."""
        return _matches(self.registration.namespaces.aliases, alias)

    def owns_room(self, room_id: str) -> bool:
        """Return whether a room ID is in the service's namespaces."""
        return _matches(self.registration.namespaces.rooms, room_id)

    def reserves_user(self, user_id: str) -> bool:
        """Return whether a user ID is in an exclusive namespace, or the service's own user."""
        exclusive = _exclusive(self.registration.namespaces.users)
        return user_id == self.sender or (
            user_id.endswith(self.suffix) and _matches(exclusive, user_id)
        )

    def reserves_alias(self, alias: str) -> bool:
        """Return whether an alias is in an exclusive namespace."""
        return _matches(_exclusive(self.registration.namespaces.aliases), alias)


class AppserviceRegistry:
    """The registered application services."""

    def __init__(
        self, registrations: Sequence[AppserviceRegistration], server_name: ServerName
    ) -> None:
        suffix = f":{server_name}"
        self.services = tuple(
            Appservice(registration, UserID(f"@{registration.sender_localpart}{suffix}"), suffix)
            for registration in registrations
        )
        self._by_id = {service.id: service for service in self.services}
        self._owners: LruCache[str, tuple[Appservice, ...]] = LruCache(
            "appservice_users", max_entries=MAX_USERS
        )

    def get(self, service_id: str | None) -> Appservice | None:
        """Return a service by its ID, or None."""
        return None if service_id is None else self._by_id.get(service_id)

    def of_requester(self, requester: Requester) -> Appservice:
        """Return the service that makes a request. Raises: Forbidden."""
        service = self.get(requester.appservice_id)
        if service is None:
            raise Forbidden("Only application services can use this endpoint")
        return service

    def owners(self, user_id: str) -> tuple[Appservice, ...]:
        """Return the services in whose namespaces a user is."""
        if not self.services:
            return ()
        owners = self._owners.get(user_id)
        if owners is None:
            owners = tuple(service for service in self.services if service.owns_user(user_id))
            self._owners.put(user_id, owners)
        return owners

    def alias_owners(self, alias: str) -> tuple[Appservice, ...]:
        """Return the services in whose namespaces an alias is."""
        return tuple(service for service in self.services if service.owns_alias(alias))

    def room_owners(self, room_id: RoomID) -> tuple[Appservice, ...]:
        """Return the services in whose namespaces a room ID is."""
        return tuple(service for service in self.services if service.owns_room(room_id))

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Return whether a user ID is in the namespaces of a service."""
        service = self._by_id.get(appservice_id)
        return service is not None and service.owns_user(user_id)

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        """Return whether a service other than `but_for` reserves the user ID exclusively."""
        return any(
            service.id != but_for and service.reserves_user(user_id) for service in self.services
        )

    def exclusive_owner(self, user_id: str) -> Appservice | None:
        """Return the service that reserves a user ID exclusively, or None."""
        return next((each for each in self.owners(user_id) if each.reserves_user(user_id)), None)

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Reject aliases reserved by other services; for a service, also aliases outside its own.

        Raises: Exclusive.
        """
        requesting_service = self.get(requester.appservice_id)
        if requesting_service is not None and not requesting_service.owns_alias(alias):
            raise Exclusive("The alias is not in the application service's namespaces")
        if any(
            service is not requesting_service and service.reserves_alias(alias)
            for service in self.services
        ):
            raise Exclusive("The alias is reserved by an application service")


def _matches(namespaces: Iterable[AppserviceNamespace], value: str) -> bool:
    # Anchored at the start only: registrations rely on this behaviour of homeservers.
    return any(namespace.pattern.match(value) is not None for namespace in namespaces)


def _exclusive(namespaces: Iterable[AppserviceNamespace]) -> list[AppserviceNamespace]:
    return [namespace for namespace in namespaces if namespace.exclusive]
