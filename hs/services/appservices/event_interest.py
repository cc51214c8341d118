"""Which services are interested in which rooms and events, all in memory.

A service is interested in a room for the room's ID, for one of its aliases, or because one of the
service's users is joined to it; and in member events of its users anywhere.

Spec: application service API, Registration.
"""

from collections.abc import Collection, Iterable
from typing import Final

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.streams import StateChange
from hs.lib.caching.lru_cache import LruCache
from hs.services.appservices.appservice_registry import Appservice, AppserviceRegistry
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database
from hs.storage.directory import room_directory

PAGE: Final = 10_000
MAX_ROOMS: Final = 50_000
"""Rooms for whose IDs the interested services are cached."""

Services = tuple[Appservice, ...]


class EventInterest:
    """The interest of services, in the process that sends to them.

    It follows the streams through the `RowQueue` of `AppserviceSender`: a change counts from its
    place in the stream on, and changes that arrive during `load` are in the queue.
    """

    def __init__(self, registry: AppserviceRegistry, database: Database) -> None:
        self._registry = registry
        self._database = database
        self._services = tuple(service for service in registry.services if service.registration.url)
        namespaces = [service.registration.namespaces for service in self._services]
        self._by_room_id = any(namespace.rooms for namespace in namespaces)
        self._by_alias = any(namespace.aliases for namespace in namespaces)
        self._by_ids: LruCache[str, Services] = LruCache("appservice_rooms", max_entries=MAX_ROOMS)
        # The users of each service that are joined to each room.
        self._members: dict[str, dict[Appservice, set[str]]] = {}
        self._aliased: dict[str, Services] = {}

    @property
    def services(self) -> Services:
        """The services that have a URL to send to."""
        return self._services

    async def load(self) -> None:
        """Read the memberships of services' users and the aliases of rooms."""
        self._members.clear()
        after = ("", "")
        while page := await self._database.read(storage.list_joined, after, PAGE):
            for user_id, room_id in page:
                self._joined(room_id, user_id)
            after = page[-1]
        await self.load_aliases()

    async def load_aliases(self) -> None:
        """Read the aliases of all rooms."""
        self._aliased.clear()
        after = ""
        while self._by_alias and (
            page := await self._database.read(storage.list_aliases, after, PAGE)
        ):
            for alias, room_id in page:
                self._add_aliases(room_id, (alias,))
            after = page[-1][0]

    async def load_aliases_of(self, room_id: str) -> None:
        """Read the aliases of one room."""
        if self._by_alias:
            aliases = await self._database.read(room_directory.aliases_of, room_id)
            self._aliased.pop(room_id, None)
            self._add_aliases(room_id, aliases)

    def owners(self, user_id: str) -> list[Appservice]:
        """List the services with a URL that a user belongs to."""
        owners = self._registry.owners(user_id)
        return [service for service in owners if service.registration.url]

    def in_room(self, room_id: str) -> Collection[Appservice]:
        """List the services that are interested in all that happens in a room."""
        members = self._members.get(room_id)
        aliased = self._aliased.get(room_id)
        if not self._by_room_id and not aliased:
            return members if members is not None else ()
        by_id = self._by_id(room_id) if self._by_room_id else ()
        interested = dict.fromkeys((*(members or ()), *(aliased or ()), *by_id))
        return [service for service in interested if service.registration.url]

    def in_rooms(self, room_ids: Iterable[str]) -> set[Appservice]:
        """List the services that are interested in at least one of the rooms."""
        return {service for room_id in room_ids for service in self.in_room(room_id)}

    def in_event(
        self, room_id: str, event_type: str, sender: str, state_key: str | None
    ) -> Collection[Appservice]:
        """List the services that an event is for."""
        in_room = self.in_room(room_id)
        if event_type != event_types.MEMBER or state_key is None:
            return in_room
        concerned = [*self.owners(state_key), *self.owners(sender)]
        return dict.fromkeys((*in_room, *concerned)) if concerned else in_room

    def changed(self, room_id: str, changes: Iterable[StateChange]) -> None:
        """Apply changes of a room's state."""
        for event_type, state_key, _, membership in changes:
            if event_type != event_types.MEMBER:
                continue
            if membership == event_types.JOIN:
                self._joined(room_id, state_key)
            else:
                self._left(room_id, state_key)

    def _joined(self, room_id: str, user_id: str) -> None:
        for service in self.owners(user_id):
            self._members.setdefault(room_id, {}).setdefault(service, set()).add(user_id)

    def _left(self, room_id: str, user_id: str) -> None:
        members = self._members.get(room_id)
        if members is None:
            return
        for service in self.owners(user_id):
            users = members.get(service)
            if users is not None:
                users.discard(user_id)
                if not users:
                    del members[service]
        if not members:
            del self._members[room_id]

    def _by_id(self, room_id: str) -> Services:
        services = self._by_ids.get(room_id)
        if services is None:
            services = self._registry.room_owners(RoomID(room_id))
            self._by_ids.put(room_id, services)
        return services

    def _add_aliases(self, room_id: str, aliases: Iterable[str]) -> None:
        services = [service for alias in aliases for service in self._registry.alias_owners(alias)]
        if services:
            known = self._aliased.get(room_id, ())
            self._aliased[room_id] = tuple(dict.fromkeys((*known, *services)))
