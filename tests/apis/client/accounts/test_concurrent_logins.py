"""Concurrent logins and refreshes on one device: exactly one session remains.

On PostgreSQL a unit of work locks the table of access tokens until both of the others wait for it,
so both have begun before either can end. On SQLite they run one after the other anyway.
"""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from hs.core.errors import UnknownToken
from hs.services.accounts.sessions.sessions import RequestedDevice, Session
from hs.storage.database import Database, Tx
from tests.support.accounts import Accounts

LIMIT_S = 60.0
LOCK_TABLE = "LOCK TABLE access_tokens IN SHARE MODE"
TABLE_LOCKS = """
SELECT count(*) FROM pg_locks
WHERE relation = 'access_tokens'::regclass AND mode = 'ShareLock' AND granted
"""
WAITING_LOCKS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@attrs.define
class Phone:
    """A device that logs in and refreshes its token."""

    accounts: Accounts
    session: Session
    is_refused: bool = False

    async def log_in(self) -> None:
        await self.accounts.sessions.open(self.session.user_id, RequestedDevice(device_id="PHONE"))

    async def refresh(self) -> None:
        assert self.session.refresh_token is not None
        try:
            await self.accounts.sessions.refresh(self.session.refresh_token)
        except UnknownToken:
            self.is_refused = True


@pytest.fixture
async def phone(accounts: Accounts) -> Phone:
    """Return a device that is logged in."""
    alice = await accounts.user("alice", device_id="PHONE")
    device = RequestedDevice(device_id="PHONE", wants_refresh=True)
    return Phone(accounts, await accounts.sessions.open(alice.user_id, device))


async def test_concurrent_logins_leave_one_token(accounts: Accounts, phone: Phone) -> None:
    await run_concurrently(accounts.database, phone.log_in, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_concurrent_first_logins_leave_one_token(accounts: Accounts, phone: Phone) -> None:
    await accounts.sessions.remove_devices(phone.session.user_id, ["PHONE"])

    await run_concurrently(accounts.database, phone.log_in, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_concurrent_logins_of_a_device_without_token_leave_one_token(
    accounts: Accounts, phone: Phone
) -> None:
    # Application services create devices without tokens.
    await accounts.database.write(delete_tokens)

    await run_concurrently(accounts.database, phone.log_in, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_login_revokes_the_tokens_of_a_concurrent_refresh(
    accounts: Accounts, phone: Phone
) -> None:
    await run_concurrently(accounts.database, phone.refresh, phone.log_in)

    assert await accounts.database.read(count_tokens) == (1, 0)


async def test_refresh_after_a_concurrent_login_is_rejected(
    accounts: Accounts, phone: Phone
) -> None:
    await run_concurrently(accounts.database, phone.log_in, phone.refresh)

    assert phone.is_refused
    assert await accounts.database.read(count_tokens) == (1, 0)


async def run_concurrently(
    database: Database, first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]]
) -> None:
    """Run both so that neither ends before the other has begun; `first` begins first."""
    with trio.fail_after(LIMIT_S):
        if database.engine == "sqlite":
            await first()
            await second()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, lock_until_two_wait)
            await wait_until_nonzero(database, TABLE_LOCKS)
            nursery.start_soon(first)
            await wait_until_nonzero(database, WAITING_LOCKS)
            nursery.start_soon(second)


async def wait_until_nonzero(database: Database, query: str) -> None:
    """Wait until a query returns a count other than 0."""
    while await database.read(count, query) == 0:
        await trio.lowlevel.checkpoint()


async def lock_until_two_wait(tx: Tx) -> None:
    await tx.execute(LOCK_TABLE)
    while await count(tx, WAITING_LOCKS) < 2:
        pass


async def count(tx: Tx, query: str) -> int:
    number: int = await tx.fetchval(query)
    return number


async def count_tokens(tx: Tx) -> tuple[int, int]:
    """Return the numbers of access tokens and refresh tokens."""
    return (
        await count(tx, "SELECT count(*) FROM access_tokens"),
        await count(tx, "SELECT count(*) FROM refresh_tokens"),
    )


async def delete_tokens(tx: Tx) -> None:
    await tx.execute("DELETE FROM access_tokens")
    await tx.execute("DELETE FROM refresh_tokens")
