"""Identity assertion of application services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest

from hs.core.errors import Forbidden, UnknownDevice, UserDeactivated
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.streams import CACHES, CacheRow
from hs.repl.inproc import InProcTransport
from hs.services.accounts.sessions.authenticator import USERS
from hs.settings.sections.appservices import AppserviceRegistration
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from hs.storage.devices import devices
from tests.support.appservices import GHOST, registration, settings_with
from tests.support.composition import SERVER, ComposedProcess, open_process, worker_settings
from tests.support.rooms import ALICE

BOT = UserID(f"@ircbot:{SERVER}")


@attrs.frozen(eq=False)
class IdentityScene:
    """A process with services, and a user that the service `irc` has registered."""

    process: ComposedProcess

    def requester_of(self, token: str = "as-irc") -> Requester | None:
        """Return the requester of a service's token."""
        return self.process.services.core.appservices.identities.requester_of(token)

    async def acting_as(
        self, user_id: str, device_id: str | None = None, token: str = "as-irc"
    ) -> Requester:
        """Let a service act as a user."""
        requester = self.requester_of(token)
        assert requester is not None
        identities = self.process.services.core.appservices.identities
        return await identities.acting_as(requester, user_id, device_id)


@asynccontextmanager
async def open_scene(
    database: Database, *registrations: AppserviceRegistration, is_worker: bool = False
) -> AsyncIterator[IdentityScene]:
    settings = settings_with(*(registrations or (registration(),)))
    if is_worker:
        settings = worker_settings(settings, "main", "worker")
    await database.write(users.insert_user, UserRecord(GHOST, None, 0))
    async with open_process(database, settings) as process:
        yield IdentityScene(process)


async def test_token_of_a_service_is_its_own_user(database: Database) -> None:
    async with open_scene(database) as scene:
        requester = scene.requester_of()

        assert scene.requester_of("as-another") is None
        assert requester is not None
        assert (requester.user_id, requester.appservice_id) == (BOT, "irc")
        assert requester.is_rate_limit_exempt
        assert await scene.acting_as(BOT) == requester


async def test_service_acts_as_users_it_has_registered(database: Database) -> None:
    services = registration(rate_limited=True), registration("sms")
    async with open_scene(database, *services) as scene:
        acting = await scene.acting_as(GHOST)

        assert (acting.user_id, acting.appservice_id) == (GHOST, "irc")
        assert not acting.is_rate_limit_exempt
        for user_id in (ALICE, f"@_irc_nobody:{SERVER}", "@_irc_ghost:elsewhere.test", "nonsense"):
            with pytest.raises(Forbidden):
                await scene.acting_as(user_id)
        with pytest.raises(Forbidden):
            await scene.acting_as(GHOST, token="as-sms")


async def test_users_of_services_without_rate_limits_are_unlimited(database: Database) -> None:
    async with open_scene(database, registration(rate_limited=False)) as scene:
        assert (await scene.acting_as(GHOST)).is_rate_limit_exempt


async def test_device_must_exist(database: Database) -> None:
    async with open_scene(database) as scene:
        with pytest.raises(UnknownDevice):
            await scene.acting_as(GHOST, "FAX")

        await database.write(devices.ensure, GHOST, "FAX", None, 0)

        assert (await scene.acting_as(GHOST, "FAX")).device_id == "FAX"


async def test_announced_change_of_a_user_takes_effect_immediately(database: Database) -> None:
    async with open_scene(database) as scene:
        before = await scene.acting_as(GHOST)

        await database.write(users.deactivate, GHOST, False)
        unannounced = await scene.acting_as(GHOST)
        scene.process.base.memory(CACHES).append_nowait([CacheRow(USERS, (GHOST,))])

        assert unannounced == before
        with pytest.raises(UserDeactivated):
            await scene.acting_as(GHOST)


async def test_database_is_read_while_disconnected(database: Database) -> None:
    async with open_scene(database, is_worker=True) as scene:
        transport = scene.process.base.transport
        assert isinstance(transport, InProcTransport)
        assert not (await scene.acting_as(GHOST)).locked

        await database.write(users.set_locked, GHOST, True)
        before = await scene.acting_as(GHOST)
        transport.connected = False
        after = await scene.acting_as(GHOST)

        assert (before.locked, after.locked) == (False, True)
