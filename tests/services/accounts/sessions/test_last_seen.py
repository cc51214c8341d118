"""The retention of the devices' IP addresses and user agents."""

import attrs

from hs.storage.database import Database
from hs.storage.devices import devices
from tests.support.accounts import DEFAULTS, open_accounts


async def test_addresses_are_cleared_after_the_configured_time(database: Database) -> None:
    server = attrs.evolve(DEFAULTS.server, user_ips_max_age=1000)
    async with open_accounts(database, server=server) as accounts:
        alice = await accounts.user("alice")
        last_seen = accounts.last_seen
        last_seen.note(alice.user_id, alice.device_id, "192.0.2.1", "a client")
        await last_seen.write()
        seen_ms = accounts.clock.now_ms()

        await last_seen.clear_old_addresses()
        (recent,) = await database.read(devices.list_devices, alice.user_id)
        accounts.clock.advance(1001)
        await last_seen.clear_old_addresses()
        (cleared,) = await database.read(devices.list_devices, alice.user_id)

        assert (recent.last_seen_ip, recent.last_seen_user_agent) == ("192.0.2.1", "a client")
        assert (cleared.last_seen_ms, cleared.last_seen_ip, cleared.last_seen_user_agent) == (
            seen_ms,
            None,
            None,
        )
