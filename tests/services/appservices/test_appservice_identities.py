"""Identity assertion of application services."""

from collections.abc import AsyncIterator

import pytest

from hs.core.errors import Forbidden, UnknownDevice, UserDeactivated
from hs.core.ids import UserID
from hs.core.streams import CACHES, CacheRow
from hs.repl.feed import Batch
from hs.services.accounts.sessions.authenticator import USERS
from hs.services.appservices.appservice_identities import AppserviceIdentities
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.settings.sections.appservices import AppserviceRegistration
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from hs.storage.devices import devices
from tests.support.appservices import GHOST, registration
from tests.support.rooms import ALICE, SERVER, World, open_world

BOT = UserID(f"@ircbot:{SERVER}")


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """A world with a user that the service has registered."""
    async with open_world(database) as opened:
        await database.write(users.insert_user, UserRecord(GHOST, None, 0))
        yield opened


def identities(world: World, *registrations: AppserviceRegistration) -> AppserviceIdentities:
    """Return the identities of services."""
    registry = AppserviceRegistry(registrations or [registration()], SERVER)
    return AppserviceIdentities(registry, world.database, world.feed)


async def test_token_of_a_service_is_its_own_user(world: World) -> None:
    service_identities = identities(world)
    requester = service_identities.requester_of("as-irc")

    assert service_identities.requester_of("as-another") is None
    assert requester is not None
    assert (requester.user_id, requester.appservice_id) == (BOT, "irc")
    assert requester.is_rate_limit_exempt
    assert await service_identities.acting_as(requester, BOT, None) == requester


async def test_service_acts_as_users_it_has_registered(world: World) -> None:
    service_identities = identities(world, registration(rate_limited=True), registration("sms"))
    requester = service_identities.requester_of("as-irc")
    assert requester is not None

    acting = await service_identities.acting_as(requester, GHOST, None)

    assert (acting.user_id, acting.appservice_id) == (GHOST, "irc")
    assert not acting.is_rate_limit_exempt
    for user_id in (ALICE, f"@_irc_nobody:{SERVER}", "@_irc_ghost:elsewhere.test", "nonsense"):
        with pytest.raises(Forbidden):
            await service_identities.acting_as(requester, user_id, None)
    other_requester = service_identities.requester_of("as-sms")
    assert other_requester is not None
    with pytest.raises(Forbidden):
        await service_identities.acting_as(other_requester, GHOST, None)


async def test_users_of_services_without_rate_limits_are_unlimited(world: World) -> None:
    service_identities = identities(world, registration(rate_limited=False))
    requester = service_identities.requester_of("as-irc")
    assert requester is not None

    assert (await service_identities.acting_as(requester, GHOST, None)).is_rate_limit_exempt


async def test_device_must_exist(world: World) -> None:
    service_identities = identities(world)
    requester = service_identities.requester_of("as-irc")
    assert requester is not None
    with pytest.raises(UnknownDevice):
        await service_identities.acting_as(requester, GHOST, "FAX")

    await world.database.write(devices.ensure, GHOST, "FAX", None, 0)

    assert (await service_identities.acting_as(requester, GHOST, "FAX")).device_id == "FAX"


async def test_announced_change_of_a_user_takes_effect_immediately(world: World) -> None:
    service_identities = identities(world)
    requester = service_identities.requester_of("as-irc")
    assert requester is not None
    before = await service_identities.acting_as(requester, GHOST, None)

    await world.database.write(users.deactivate, GHOST, False)
    unannounced = await service_identities.acting_as(requester, GHOST, None)
    announce_change(world, GHOST)

    assert unannounced == before
    with pytest.raises(UserDeactivated):
        await service_identities.acting_as(requester, GHOST, None)


def announce_change(world: World, user_id: UserID) -> None:
    """Announce that a user has changed."""
    row = CacheRow(USERS, (user_id,))
    world.feed.deliver(Batch(CACHES, "other", 0, 1, [(1, row)]))


async def test_database_is_read_while_disconnected(world: World) -> None:
    is_connected = [True]
    registry = AppserviceRegistry([registration()], SERVER)
    service_identities = AppserviceIdentities(
        registry, world.database, world.feed, lambda: is_connected[0]
    )
    requester = service_identities.requester_of("as-irc")
    assert requester is not None
    assert not (await service_identities.acting_as(requester, GHOST, None)).locked

    await world.database.write(users.set_locked, GHOST, True)
    before = await service_identities.acting_as(requester, GHOST, None)
    is_connected[0] = False
    after = await service_identities.acting_as(requester, GHOST, None)

    assert (before.locked, after.locked) == (False, True)
