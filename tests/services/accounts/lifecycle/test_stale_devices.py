"""Devices that nobody uses are deleted with their sessions, if so configured."""

from hs.services.accounts.lifecycle.stale_devices import StaleDevices
from hs.storage.database import Database
from tests.support.accounts import open_accounts

DEVICES = "/_matrix/client/v3/devices"
DAY = 86_400_000


async def test_devices_unused_for_the_period_are_deleted(database: Database) -> None:
    async with open_accounts(database) as accounts:
        alice = await accounts.user("alice", password="secret")
        old = (await accounts.log_in("alice", "secret", device_id="OLD"))["access_token"]
        stale = StaleDevices(database, accounts.clock, accounts.sessions, 10 * DAY)
        accounts.clock.advance(9 * DAY)
        await accounts.client.get(DEVICES, token=alice.access_token)
        await accounts.last_seen.write()

        assert await stale.delete() == 0
        accounts.clock.advance(2 * DAY)
        assert await stale.delete() == 1

        assert (await accounts.client.get(DEVICES, token=old)).errcode == "M_UNKNOWN_TOKEN"
        answer = await accounts.client.get(DEVICES, token=alice.access_token)
        assert [one["device_id"] for one in answer.json["devices"]] == ["ALICE"]
