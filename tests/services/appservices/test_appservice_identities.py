"""Whom application services speak for."""

from collections.abc import AsyncIterator

import pytest

from hs.core.errors import Forbidden, UnknownDevice, UserDeactivated
from hs.core.ids import UserID
from hs.repl.feed import Batch
from hs.repl.rows import CacheRow
from hs.repl.streams import CACHES
from hs.services.accounts.sessions.authenticator import USERS
from hs.services.appservices.appservice_identities import ServiceIdentities
from hs.services.appservices.appservice_registry import ServiceRegistry
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
    """Rooms on a fresh database, with a user of the service's."""
    async with open_world(database) as opened:
        await database.write(users.insert_user, UserRecord(GHOST, None, 0))
        yield opened


def identities(world: World, *registrations: AppserviceRegistration) -> ServiceIdentities:
    """Know services."""
    registry = ServiceRegistry(registrations or [registration()], SERVER)
    return ServiceIdentities(registry, world.database, world.feed)


async def test_a_service_is_its_own_user_first(world: World) -> None:
    known = identities(world)
    requester = known.requester_of("as-irc")

    assert known.requester_of("as-another") is None
    assert requester is not None
    assert (requester.user_id, requester.appservice_id) == (BOT, "irc")
    assert requester.unlimited
    assert await known.acting_as(requester, BOT, None) == requester


async def test_a_service_speaks_for_those_it_has_made(world: World) -> None:
    known = identities(world, registration(rate_limited=True), registration("sms"))
    requester = known.requester_of("as-irc")
    assert requester is not None

    acting = await known.acting_as(requester, GHOST, None)

    assert (acting.user_id, acting.appservice_id) == (GHOST, "irc")
    assert not acting.unlimited
    for refused in (ALICE, f"@_irc_nobody:{SERVER}", "@_irc_ghost:elsewhere.test", "nonsense"):
        with pytest.raises(Forbidden):
            await known.acting_as(requester, refused, None)
    other = known.requester_of("as-sms")
    assert other is not None
    with pytest.raises(Forbidden):
        await known.acting_as(other, GHOST, None)


async def test_limits_do_not_hold_for_users_of_trusted_services(world: World) -> None:
    known = identities(world, registration(rate_limited=False))
    requester = known.requester_of("as-irc")
    assert requester is not None

    assert (await known.acting_as(requester, GHOST, None)).unlimited


async def test_devices_must_be_there(world: World) -> None:
    known = identities(world)
    requester = known.requester_of("as-irc")
    assert requester is not None
    with pytest.raises(UnknownDevice):
        await known.acting_as(requester, GHOST, "FAX")

    await world.database.write(devices.ensure, GHOST, "FAX", None, 0)

    assert (await known.acting_as(requester, GHOST, "FAX")).device_id == "FAX"


async def test_what_becomes_of_a_user_is_known_at_once(world: World) -> None:
    known = identities(world)
    requester = known.requester_of("as-irc")
    assert requester is not None
    before = await known.acting_as(requester, GHOST, None)

    await world.database.write(users.deactivate, GHOST, False)
    still = await known.acting_as(requester, GHOST, None)
    tell_of(world, GHOST)

    assert still == before
    with pytest.raises(UserDeactivated):
        await known.acting_as(requester, GHOST, None)


def tell_of(world: World, user_id: UserID) -> None:
    """Announce that somebody is not what they were."""
    row = CacheRow(USERS, (user_id,))
    world.feed.deliver(Batch(CACHES, "one", 0, 1, [(1, row)]))


async def test_who_hears_nothing_of_others_asks_the_database(world: World) -> None:
    hears = [True]
    registry = ServiceRegistry([registration()], SERVER)
    known = ServiceIdentities(registry, world.database, world.feed, lambda: hears[0])
    requester = known.requester_of("as-irc")
    assert requester is not None
    assert not (await known.acting_as(requester, GHOST, None)).locked

    await world.database.write(users.set_locked, GHOST, True)
    before = await known.acting_as(requester, GHOST, None)
    hears[0] = False
    after = await known.acting_as(requester, GHOST, None)

    assert (before.locked, after.locked) == (False, True)
