"""From where devices were used is not known for ever."""

from hs.services.accounts.sessions.last_seen import LastSeen
from hs.storage.database import Database
from hs.storage.devices import devices
from tests.support.accounts import open_accounts


async def test_addresses_are_forgotten_after_a_while(database: Database) -> None:
    async with open_accounts(database) as accounts:
        alice = await accounts.user("alice")
        seen = LastSeen(database, accounts.clock, 1000)
        seen.note(alice.user_id, alice.device_id, "192.0.2.1", "a client")
        await seen.write()
        before_ms = accounts.clock.now_ms()

        await seen.forget_old()
        (fresh,) = await database.read(devices.all_of, alice.user_id)
        accounts.clock.advance(1001)
        await seen.forget_old()
        (old,) = await database.read(devices.all_of, alice.user_id)

        assert (fresh.last_seen_ip, fresh.last_seen_user_agent) == ("192.0.2.1", "a client")
        assert (old.last_seen_ms, old.last_seen_ip, old.last_seen_user_agent) == (
            before_ms,
            None,
            None,
        )
