"""Asking application services for users and aliases that are not there, so that they make them.

Spec: application service API, Querying.
"""

import logging
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from hs.core.ids import RoomAlias, UserID
from hs.lib.http_client import HttpFault
from hs.services.appservices.appservice_client import Route, ServiceCalls, in_path
from hs.services.appservices.appservice_registry import Service, ServiceRegistry
from hs.storage.accounts import users
from hs.storage.database import Database

ANSWER_S: Final = 30.0
"""How long a service may take to make what it was asked for."""

JOINED_S: Final = 5.0
"""How long others wait who want the same: one of them may be the service itself."""

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class ServiceQueries:
    """Asks the services in whose namespaces something is."""

    _registry: ServiceRegistry
    _calls: ServiceCalls
    _database: Database
    _asking: dict[str, trio.Event] = attrs.Factory(dict)

    async def make_user(self, user_id: UserID) -> bool:
        """Have a user made, unless they exist; tell whether a service says that it did."""
        owners = [one for one in self._registry.owners(user_id) if one.sender != user_id]
        if not owners or await self._database.read(users.find_user, user_id) is not None:
            return False
        return await self._ask(owners, user_id, "users")

    async def make_alias(self, alias: RoomAlias) -> bool:
        """Have an alias made that does not exist; tell whether a service says that it did."""
        return await self._ask(self._registry.alias_owners(alias), alias, "rooms")

    async def _ask(self, owners: Sequence[Service], wanted: str, kind: str) -> bool:
        if not owners:
            return False
        under_way = self._asking.get(wanted)
        if under_way is not None:
            with trio.move_on_after(JOINED_S):
                await under_way.wait()
            return under_way.is_set()
        done = self._asking[wanted] = trio.Event()
        try:
            for service in owners:
                if await self._has(service, wanted, kind):
                    return True
            return False
        finally:
            del self._asking[wanted]
            done.set()

    async def _has(self, service: Service, wanted: str, kind: str) -> bool:
        if service.registration.url is None:
            return False
        path = f"/{kind}/{in_path(wanted)}"
        try:
            answer = await self._calls.send(
                service, "GET", Route(path, old_path=path), timeout_s=ANSWER_S
            )
        except HttpFault as error:
            log.warning("appservice %s was not asked for %s: %s", service.id, wanted, error)
            return False
        return answer.status == 200
