"""Concurrent claims of an identifier, and concurrent starts of a validation."""

import trio

from hs.core.errors import ThreepidInUse
from hs.core.ids import UserID
from hs.services.accounts.threepids.threepids import ValidatedThreepid
from hs.storage.database import Database
from tests.support.accounts import open_accounts
from tests.support.addresses import open_scene

THREEPID = ValidatedThreepid("email", "alice@example.org", 1)


async def test_concurrently_added_identifier_has_one_owner(database: Database) -> None:
    async with open_accounts(database) as accounts:
        threepids = accounts.threepids.threepids
        winners: list[UserID] = []

        async def claim(user_id: UserID) -> None:
            try:
                await threepids.add(user_id, THREEPID)
            except ThreepidInUse:
                return
            winners.append(user_id)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                # Each user tries twice, as a client does after a lost response.
                nursery.start_soon(claim, UserID(f"@user{number // 2}:test"))

        assert len(set(winners)) == 1
        assert len(winners) == 2
        assert await threepids.owner("email", "alice@example.org") == winners[0]


async def test_concurrent_requests_share_one_validation_session(database: Database) -> None:
    async with open_scene(database) as scene:
        sids: set[str] = set()

        async def request_token() -> None:
            sids.add((await scene.request("register")).json["sid"])

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(request_token)

        assert len(sids) == 1
