"""The configured visibility of profiles."""

from collections.abc import AsyncIterator

import attrs
import pytest

from hs.core.errors import Forbidden, MissingToken
from hs.core.requester import Requester
from hs.services.accounts.profiles.profile_visibility import ProfileVisibility
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, open_world


@pytest.fixture
async def visibility(database: Database) -> AsyncIterator[ProfileVisibility]:
    """The visibility of profiles at a server where Alice and Bob share a room."""
    async with open_world(database) as world:
        await world.create_room(ALICE, join=[BOB])
        yield ProfileVisibility(world.memberships)


async def test_profiles_are_public_by_default(visibility: ProfileVisibility) -> None:
    await visibility.check(None, BOB)
    await visibility.check(Requester(ALICE), CAROL)


async def test_token_is_required_if_configured(visibility: ProfileVisibility) -> None:
    visibility = attrs.evolve(visibility, needs_token=True)

    with pytest.raises(MissingToken):
        await visibility.check(None, BOB)
    await visibility.check(Requester(ALICE), CAROL)


async def test_shared_room_is_required_if_configured(visibility: ProfileVisibility) -> None:
    visibility = attrs.evolve(visibility, requires_shared_room=True)

    with pytest.raises(MissingToken):
        await visibility.check(None, BOB)
    with pytest.raises(Forbidden):
        await visibility.check(Requester(ALICE), CAROL)
    await visibility.check(Requester(ALICE), BOB)
    await visibility.check(Requester(CAROL), CAROL)
    await visibility.check(Requester(CAROL, is_admin=True), BOB)
