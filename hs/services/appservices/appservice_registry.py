"""The application services of this server and their namespaces.

Spec: application service API, Registration.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from hs.core.errors import Exclusive, Forbidden
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID
from hs.core.requester import Requester
from hs.lib.caching.lru_cache import LruCache
from hs.settings.sections.appservices import AppserviceRegistration, Namespace

MAX_USERS: Final = 200_000
"""Users of whom it is kept which services they belong to."""


@attrs.frozen(eq=False)
class Service:
    """One application service; `suffix` is what IDs of this server's users end with."""

    registration: AppserviceRegistration
    sender: UserID
    suffix: str

    @property
    def id(self) -> str:
        return self.registration.id

    def owns_user(self, user_id: str) -> bool:
        """Tell whether a user of this server is in its namespaces, or its own."""
        if user_id == self.sender:
            return True
        users = self.registration.namespaces.users
        return user_id.endswith(self.suffix) and _matches(users, user_id)

    def owns_alias(self, alias: str) -> bool:
        """Tell whether an alias is in its namespaces."""
        return _matches(self.registration.namespaces.aliases, alias)

    def owns_room(self, room_id: str) -> bool:
        """Tell whether a room's ID is in its namespaces."""
        return _matches(self.registration.namespaces.rooms, room_id)

    def reserves_user(self, user_id: str) -> bool:
        """Tell whether it has a user ID for itself."""
        exclusive = _exclusive(self.registration.namespaces.users)
        return user_id == self.sender or (
            user_id.endswith(self.suffix) and _matches(exclusive, user_id)
        )

    def reserves_alias(self, alias: str) -> bool:
        """Tell whether it has an alias for itself."""
        return _matches(_exclusive(self.registration.namespaces.aliases), alias)


class ServiceRegistry:
    """All services; costs nothing where there are none."""

    def __init__(
        self, registrations: Sequence[AppserviceRegistration], server_name: ServerName
    ) -> None:
        suffix = f":{server_name}"
        self.services = tuple(
            Service(one, UserID(f"@{one.sender_localpart}{suffix}"), suffix)
            for one in registrations
        )
        self._by_id = {one.id: one for one in self.services}
        self._owners: LruCache[str, tuple[Service, ...]] = LruCache(
            "appservice_users", max_entries=MAX_USERS
        )

    def get(self, service_id: str | None) -> Service | None:
        """Give a service by its ID."""
        return None if service_id is None else self._by_id.get(service_id)

    def of_requester(self, requester: Requester) -> Service:
        """Give the service that asks. Raises: Forbidden."""
        service = self.get(requester.appservice_id)
        if service is None:
            raise Forbidden("Only application services may do this")
        return service

    def owners(self, user_id: str) -> tuple[Service, ...]:
        """List the services that a user belongs to."""
        if not self.services:
            return ()
        found = self._owners.get(user_id)
        if found is None:
            found = tuple(one for one in self.services if one.owns_user(user_id))
            self._owners.put(user_id, found)
        return found

    def alias_owners(self, alias: str) -> tuple[Service, ...]:
        """List the services that an alias belongs to."""
        return tuple(one for one in self.services if one.owns_alias(alias))

    def room_owners(self, room_id: RoomID) -> tuple[Service, ...]:
        """List the services that are interested in a room for its ID."""
        return tuple(one for one in self.services if one.owns_room(room_id))

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Tell whether a user ID is in the namespaces of a service."""
        service = self._by_id.get(appservice_id)
        return service is not None and service.owns_user(user_id)

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        """Tell whether a service other than `but_for` has the user ID for itself."""
        return any(one.id != but_for and one.reserves_user(user_id) for one in self.services)

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Refuse aliases of others' namespaces, and to services all outside their own.

        Raises: Exclusive.
        """
        own = self.get(requester.appservice_id)
        if own is not None and not own.owns_alias(alias):
            raise Exclusive("The alias is not in the application service's namespaces")
        if any(one is not own and one.reserves_alias(alias) for one in self.services):
            raise Exclusive("This alias belongs to an application service")


def _matches(namespaces: Iterable[Namespace], value: str) -> bool:
    # From the start, but not to the end: so are regexes of registrations understood everywhere.
    return any(one.pattern.match(value) is not None for one in namespaces)


def _exclusive(namespaces: Iterable[Namespace]) -> list[Namespace]:
    return [one for one in namespaces if one.exclusive]
