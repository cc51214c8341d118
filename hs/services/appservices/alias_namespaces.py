"""Aliases in the namespaces of application services."""

from typing import Final

import attrs

from hs.core.ids import RoomAlias, RoomID
from hs.core.requester import Requester
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow
from hs.services.appservices.appservice_registry import ServiceRegistry
from hs.services.appservices.queries import ServiceQueries

ALIASES: Final = "room_aliases"
"""Row of the stream `caches`: the aliases of these rooms are not what they were."""


@attrs.frozen(eq=False)
class ServiceAliases:
    """What the directory of aliases asks of services and tells them."""

    _registry: ServiceRegistry
    _queries: ServiceQueries
    _caches: MemoryWriter[CacheRow]

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Refuse aliases of others' namespaces, and to services all outside their own.

        Raises: Exclusive.
        """
        self._registry.check_may_manage(requester, alias)

    async def make_alias(self, alias: RoomAlias) -> bool:
        """Have an alias made that is not there; tell whether it may be there now."""
        return await self._queries.make_alias(alias)

    def aliases_changed(self, *room_ids: RoomID) -> None:
        """Tell who sends to services that rooms have other aliases than before."""
        if self._registry.services:
            self._caches.append_nowait([CacheRow(ALIASES, room_ids)])
