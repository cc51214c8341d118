"""The cleanup of devices that are unused for the configured time."""

from hs.services.accounts.lifecycle.stale_devices import StaleDeviceCleanup
from hs.storage.database import Database
from tests.support.accounts import open_accounts

DEVICES = "/_matrix/client/v3/devices"
DAY = 86_400_000


async def test_devices_unused_for_the_configured_time_are_deleted(database: Database) -> None:
    async with open_accounts(database) as accounts:
        alice = await accounts.user("alice", password="secret")
        old_token = (await accounts.log_in("alice", "secret", device_id="OLD"))["access_token"]
        cleanup = StaleDeviceCleanup(database, accounts.clock, accounts.sessions, 10 * DAY)
        accounts.clock.advance(9 * DAY)
        await accounts.client.get(DEVICES, token=alice.access_token)
        await accounts.last_seen.write()

        assert await cleanup.delete() == 0
        accounts.clock.advance(2 * DAY)
        assert await cleanup.delete() == 1

        assert (await accounts.client.get(DEVICES, token=old_token)).errcode == "M_UNKNOWN_TOKEN"
        response = await accounts.client.get(DEVICES, token=alice.access_token)
        assert [device["device_id"] for device in response.json["devices"]] == ["ALICE"]
