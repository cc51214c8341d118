"""Queries of application services for unknown users and aliases, which they can then create.

Spec: application service API, Querying.
"""

import logging
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from hs.core.ids import RoomAlias, UserID
from hs.lib.http_client import HttpFault
from hs.services.appservices.appservice_client import (
    AppserviceClient,
    AppserviceRoute,
    path_segment,
)
from hs.services.appservices.appservice_registry import Appservice, AppserviceRegistry
from hs.storage.accounts import users
from hs.storage.database import Database

ANSWER_S: Final = 30.0
"""Timeout of a query, including the time in which the service creates the user or room."""

SHARED_WAIT_S: Final = 5.0
"""How long other requests for the same ID wait; one of them may come from the service itself."""

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class AppserviceQueries:
    """The queries of services by namespace; concurrent queries for an ID are shared."""

    _registry: AppserviceRegistry
    _calls: AppserviceClient
    _database: Database
    _running: dict[str, trio.Event] = attrs.Factory(dict)

    async def query_user(self, user_id: UserID) -> bool:
        """Query for a user that does not exist; return whether a service has created it."""
        owners = [
            service for service in self._registry.owners(user_id) if service.sender != user_id
        ]
        if not owners or await self._database.read(users.find_user, user_id) is not None:
            return False
        return await self._query(owners, user_id, "users")

    async def query_alias(self, alias: RoomAlias) -> bool:
        """Query for an alias that does not exist; return whether a service has created it."""
        return await self._query(self._registry.alias_owners(alias), alias, "rooms")

    async def _query(self, owners: Sequence[Appservice], name: str, kind: str) -> bool:
        if not owners:
            return False
        running = self._running.get(name)
        if running is not None:
            with trio.move_on_after(SHARED_WAIT_S):
                await running.wait()
            return running.is_set()
        done = self._running[name] = trio.Event()
        try:
            for service in owners:
                if await self._query_service(service, name, kind):
                    return True
            return False
        finally:
            del self._running[name]
            done.set()

    async def _query_service(self, service: Appservice, name: str, kind: str) -> bool:
        if service.registration.url is None:
            return False
        path = f"/{kind}/{path_segment(name)}"
        try:
            answer = await self._calls.send(
                service, "GET", AppserviceRoute(path, legacy_path=path), timeout_s=ANSWER_S
            )
        except HttpFault as error:
            log.warning("querying appservice %s for %s failed: %s", service.id, name, error)
            return False
        return answer.status == 200
