"""Of what logs in or refreshes on one device at the same time, one remains.

On PostgreSQL a unit of work shuts the table of tokens until both of the others wait: so both have
begun before either could end. SQLite runs one after the other anyway.
"""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from hs.core.errors import UnknownToken
from hs.services.accounts.sessions.sessions import DeviceWish, Session
from hs.storage.database import Database, Tx
from tests.support.accounts import Accounts

LIMIT_S = 60.0
SHUT = "LOCK TABLE access_tokens IN SHARE MODE"
SHUT_NOW = """
SELECT count(*) FROM pg_locks
WHERE relation = 'access_tokens'::regclass AND mode = 'ShareLock' AND granted
"""
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@attrs.define
class Phone:
    """A device that logs in and refreshes."""

    accounts: Accounts
    session: Session
    is_refused: bool = False

    async def log_in(self) -> None:
        await self.accounts.sessions.open(self.session.user_id, DeviceWish(device_id="PHONE"))

    async def refresh(self) -> None:
        assert self.session.refresh_token is not None
        try:
            await self.accounts.sessions.refresh(self.session.refresh_token)
        except UnknownToken:
            self.is_refused = True


@pytest.fixture
async def phone(accounts: Accounts) -> Phone:
    """A device that is logged in."""
    alice = await accounts.user("alice", device_id="PHONE")
    wish = DeviceWish(device_id="PHONE", wants_refresh=True)
    return Phone(accounts, await accounts.sessions.open(alice.user_id, wish))


async def test_of_two_logins_one_token_remains(accounts: Accounts, phone: Phone) -> None:
    await together(accounts.database, phone.log_in, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_of_two_first_logins_as_well(accounts: Accounts, phone: Phone) -> None:
    await accounts.sessions.remove_devices(phone.session.user_id, ["PHONE"])

    await together(accounts.database, phone.log_in, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_of_two_logins_with_a_device_that_has_no_token_as_well(
    accounts: Accounts, phone: Phone
) -> None:
    # As application services make devices.
    await accounts.database.write(drop_tokens)

    await together(accounts.database, phone.log_in, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_a_login_ends_what_a_refresh_gives_meanwhile(
    accounts: Accounts, phone: Phone
) -> None:
    await together(accounts.database, phone.refresh, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_a_refresh_is_refused_after_a_login_meanwhile(
    accounts: Accounts, phone: Phone
) -> None:
    await together(accounts.database, phone.log_in, phone.refresh)

    assert phone.is_refused
    assert await accounts.database.read(count_tokens) == (1, 0)


async def together(
    database: Database, first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]]
) -> None:
    """Do both, neither of which ends before the other has begun; `first` is ahead."""
    with trio.fail_after(LIMIT_S):
        if database.engine == "sqlite":
            await first()
            await second()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, shut_until_two_wait)
            await until_any(database, SHUT_NOW)
            nursery.start_soon(first)
            await until_any(database, WAITING)
            nursery.start_soon(second)


async def until_any(database: Database, query: str) -> None:
    """Wait until a count is not 0."""
    while await database.read(count, query) == 0:
        await trio.lowlevel.checkpoint()


async def shut_until_two_wait(tx: Tx) -> None:
    await tx.execute(SHUT)
    while await count(tx, WAITING) < 2:
        pass


async def count(tx: Tx, query: str) -> int:
    number: int = await tx.fetchval(query)
    return number


async def count_tokens(tx: Tx) -> tuple[int, int]:
    """Count access tokens and refresh tokens."""
    return (
        await count(tx, "SELECT count(*) FROM access_tokens"),
        await count(tx, "SELECT count(*) FROM refresh_tokens"),
    )


async def drop_tokens(tx: Tx) -> None:
    await tx.execute("DELETE FROM access_tokens")
    await tx.execute("DELETE FROM refresh_tokens")
