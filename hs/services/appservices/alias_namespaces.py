"""Aliases in the namespaces of application services."""

from typing import Final

import attrs

from hs.core.ids import RoomAlias, RoomID
from hs.core.requester import Requester
from hs.core.streams import CacheRow
from hs.repl.memory_writer import MemoryWriter
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.appservices.queries import AppserviceQueries

ALIASES: Final = "room_aliases"
"""Row of the stream `caches`: the aliases of these rooms have changed."""


@attrs.frozen(eq=False)
class AppserviceAliases:
    """The interface of the alias directory to application services."""

    _registry: AppserviceRegistry
    _queries: AppserviceQueries
    _caches: MemoryWriter[CacheRow]

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Reject aliases reserved by other services; for a service, also aliases outside its own.

        Raises: Exclusive.
        """
        self._registry.check_may_manage(requester, alias)

    async def query_alias(self, alias: RoomAlias) -> bool:
        """Query the services for an unknown alias; return whether it may exist now."""
        return await self._queries.query_alias(alias)

    def aliases_changed(self, *room_ids: RoomID) -> None:
        """Announce changed aliases to the process that sends events to services."""
        if self._registry.services:
            self._caches.append_nowait([CacheRow(ALIASES, room_ids)])
