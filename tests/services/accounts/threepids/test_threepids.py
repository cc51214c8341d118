"""Addresses that several want at once, and validations that begin twice at once."""

import trio

from hs.core.errors import ThreepidInUse
from hs.core.ids import UserID
from hs.services.accounts.threepids.threepids import Threepids, Validated
from hs.settings.sections.threepids import ThreepidSettings
from hs.storage.database import Database
from tests.support.accounts import open_accounts
from tests.support.addresses import open_scene

PROVED = Validated("email", "alice@example.org", 1)


async def test_an_address_has_one_owner_whoever_is_quick(database: Database) -> None:
    async with open_accounts(database) as accounts:
        threepids = Threepids(database, accounts.clock, ThreepidSettings())
        winners: list[UserID] = []

        async def claim(user_id: UserID) -> None:
            try:
                await threepids.add(user_id, PROVED)
            except ThreepidInUse:
                return
            winners.append(user_id)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                # Each of them asks twice, as a client does that did not hear the answer.
                nursery.start_soon(claim, UserID(f"@user{number // 2}:test"))

        assert len(set(winners)) == 1
        assert len(winners) == 2
        assert await threepids.owner("email", "alice@example.org") == winners[0]


async def test_one_validation_that_begins_many_times_is_one(database: Database) -> None:
    async with open_scene(database) as scene:
        sids: set[str] = set()

        async def ask() -> None:
            sids.add((await scene.ask("register")).json["sid"])

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)

        assert len(sids) == 1
