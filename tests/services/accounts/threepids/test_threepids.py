"""Concurrent claims of an identifier, and concurrent starts of a validation."""

import pytest
import trio

from hs.core.errors import ThreepidInUse, TooLarge
from hs.core.ids import UserID
from hs.services.accounts.threepids import threepids as threepids_module
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


async def test_identifiers_of_a_user_are_limited(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threepids_module, "MAX_THREEPIDS", 2)
    async with open_accounts(database) as accounts:
        alice = (await accounts.user("alice")).user_id
        threepids = accounts.threepids.threepids
        for name in ("a", "b"):
            await threepids.add(alice, ValidatedThreepid("email", f"{name}@x.test", 1))

        with pytest.raises(TooLarge):
            await threepids.add(alice, ValidatedThreepid("email", "c@x.test", 1))
        await threepids.add(alice, ValidatedThreepid("email", "a@x.test", 2))

        assert len(await threepids.of_user(alice)) == 2
