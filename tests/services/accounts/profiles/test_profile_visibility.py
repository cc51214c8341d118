"""The configured visibility of profiles."""

import pytest

from hs.core.errors import Forbidden, MissingToken
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.profiles.profile_visibility import ProfileVisibility
from tests.support.sharing import SharedRooms

ALICE, BOB, CAROL = UserID("@alice:test"), UserID("@bob:test"), UserID("@carol:test")
SHARED_ROOMS = SharedRooms({(ALICE, BOB)})


async def test_profiles_are_public_by_default() -> None:
    visibility = ProfileVisibility(SHARED_ROOMS)

    await visibility.check(None, BOB)
    await visibility.check(Requester(ALICE), CAROL)


async def test_token_is_required_if_configured() -> None:
    visibility = ProfileVisibility(SHARED_ROOMS, needs_token=True)

    with pytest.raises(MissingToken):
        await visibility.check(None, BOB)
    await visibility.check(Requester(ALICE), CAROL)


async def test_shared_room_is_required_if_configured() -> None:
    visibility = ProfileVisibility(SHARED_ROOMS, requires_shared_room=True)

    with pytest.raises(MissingToken):
        await visibility.check(None, BOB)
    with pytest.raises(Forbidden):
        await visibility.check(Requester(ALICE), CAROL)
    await visibility.check(Requester(ALICE), BOB)
    await visibility.check(Requester(CAROL), CAROL)
    await visibility.check(Requester(CAROL, is_admin=True), BOB)
