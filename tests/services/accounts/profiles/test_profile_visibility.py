"""Who may see profiles, by the settings."""

import pytest

from hs.core.errors import Forbidden, MissingToken
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.profiles.profile_visibility import ProfileAudience
from tests.support.sharing import SharedRooms

ALICE, BOB, CAROL = UserID("@alice:test"), UserID("@bob:test"), UserID("@carol:test")
TOGETHER = SharedRooms({(ALICE, BOB)})


async def test_everybody_sees_profiles_as_it_is() -> None:
    audience = ProfileAudience(TOGETHER)

    await audience.check(None, BOB)
    await audience.check(Requester(ALICE), CAROL)


async def test_a_token_is_needed_if_so_configured() -> None:
    audience = ProfileAudience(TOGETHER, needs_token=True)

    with pytest.raises(MissingToken):
        await audience.check(None, BOB)
    await audience.check(Requester(ALICE), CAROL)


async def test_only_those_are_seen_whom_one_shares_a_room_with_if_so_configured() -> None:
    audience = ProfileAudience(TOGETHER, only_neighbours=True)

    with pytest.raises(MissingToken):
        await audience.check(None, BOB)
    with pytest.raises(Forbidden):
        await audience.check(Requester(ALICE), CAROL)
    await audience.check(Requester(ALICE), BOB)
    await audience.check(Requester(CAROL), CAROL)
    await audience.check(Requester(CAROL, is_admin=True), BOB)
