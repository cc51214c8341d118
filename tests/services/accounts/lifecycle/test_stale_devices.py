"""The cleanup of devices that are unused for the configured time."""

import attrs

from hs.storage.database import Database
from hs.storage.devices import devices
from tests.support.accounts import DEFAULTS, open_accounts

DEVICES = "/_matrix/client/v3/devices"
DAY = 86_400_000


async def test_devices_unused_for_the_configured_time_are_deleted(database: Database) -> None:
    server = attrs.evolve(DEFAULTS.server, delete_stale_devices_after=10 * DAY)
    async with open_accounts(database, server=server) as accounts:
        alice = await accounts.user("alice", password="secret")
        old_token = (await accounts.log_in("alice", "secret", device_id="OLD"))["access_token"]
        accounts.clock.advance(9 * DAY)
        await accounts.client.get(DEVICES, token=alice.access_token)
        await accounts.last_seen.write()

        await accounts.process.run_duty("stale device deletion")
        assert len(await database.read(devices.list_devices, alice.user_id)) == 2
        accounts.clock.advance(2 * DAY)
        await accounts.process.run_duty("stale device deletion")
        assert len(await database.read(devices.list_devices, alice.user_id)) == 1

        assert (await accounts.client.get(DEVICES, token=old_token)).errcode == "M_UNKNOWN_TOKEN"
        response = await accounts.client.get(DEVICES, token=alice.access_token)
        assert [device["device_id"] for device in response.json["devices"]] == ["ALICE"]
