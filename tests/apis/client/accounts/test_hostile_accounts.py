"""Clients without an account, or with one, that try to exhaust registration and log-in."""

import attrs
import trio

from hs.services.accounts.sessions.open_sessions import MAX_PER_OWNER
from hs.services.accounts.sessions.passwords import MAX_WAITING_OTHERS
from hs.settings.sections.rate_limits import LoginRates, Rate, RateLimitSettings
from hs.storage.accounts import uia_sessions
from hs.storage.accounts import users as stored
from hs.storage.database import Database, Tx
from tests.support.accounts import OPEN, UNLIMITED, Accounts, open_accounts
from tests.support.web import WebResponse

REGISTER = "/_matrix/client/v3/register"
LOGIN = "/_matrix/client/v3/login"
DEVICES = "/_matrix/client/v3/delete_devices"
TOKEN = "m.login.registration_token"
PLENTY = Rate(1000, 1000)


async def stored_sessions(database: Database) -> int:
    async def count(tx: Tx) -> int:
        number: int = await tx.fetchval("SELECT count(*) FROM uia_sessions")
        return number

    return await database.read(count)


def password_login(password: str) -> dict[str, str]:
    return {"type": "m.login.password", "user": "alice", "password": password}


async def test_passwords_of_registrations_that_never_end_are_counted(database: Database) -> None:
    limits = RateLimitSettings(rc_registration=Rate(0.01, 2))
    async with open_accounts(database, rate_limits=limits) as accounts:
        bodies = [{"username": f"u{number}", "password": "secret"} for number in range(3)]
        responses = [await accounts.client.post(REGISTER, body) for body in bodies]
        without_password = await accounts.client.post(REGISTER, {})

        assert [response.status for response in responses] == [401, 401, 429]
        assert without_password.status == 401
        assert await stored_sessions(database) == 3


async def test_requests_without_token_are_counted_before_anything_is_stored(
    database: Database,
) -> None:
    limits = RateLimitSettings(rc_registration=Rate(0.001, 1))
    async with open_accounts(database, rate_limits=limits) as accounts:
        statuses = [(await accounts.client.post(REGISTER, {})).status for _ in range(12)]

        assert statuses == [401] * 10 + [429] * 2
        assert await stored_sessions(database) == 10


async def test_uia_sessions_of_one_address_and_of_one_user_are_bounded(
    database: Database,
) -> None:
    async with open_accounts(database) as accounts:
        alice = await accounts.user("alice", password="secret")
        first = await accounts.client.post(REGISTER, {"username": "bob", "password": "secret"})
        for _ in range(MAX_PER_OWNER):
            await accounts.client.post(REGISTER, {})
        for _ in range(MAX_PER_OWNER + 3):
            await accounts.client.post(DEVICES, {"devices": ["X"]}, token=alice.access_token)
        replaced = await accounts.client.post(
            REGISTER, {"auth": {"type": "m.login.dummy", "session": first.json["session"]}}
        )

        assert await stored_sessions(database) == 2 * MAX_PER_OWNER
        assert (replaced.status, replaced.errcode) == (400, "M_UNKNOWN")


async def test_flood_of_registrations_does_not_stop_log_ins(database: Database) -> None:
    slow_hashes = attrs.evolve(OPEN, bcrypt_rounds=9)
    async with open_accounts(database, registration=slow_hashes) as accounts:
        await accounts.user("alice", password="secret")
        registered: list[WebResponse] = []

        async def register(number: int) -> None:
            body = {"username": f"u{number}", "password": "secret"}
            registered.append(await accounts.client.post(REGISTER, body))

        async with trio.open_nursery() as nursery:
            for number in range(MAX_WAITING_OTHERS + 20):
                nursery.start_soon(register, number)
            while not registered:
                await trio.lowlevel.checkpoint()
            login = await accounts.client.post(LOGIN, password_login("secret"))
            hashed_meanwhile = sum(response.status == 401 for response in registered)

        assert login.status == 200
        assert hashed_meanwhile < MAX_WAITING_OTHERS / 2
        assert sum(response.status == 429 for response in registered) >= 10


async def test_repeated_registration_does_not_check_any_number_of_passwords(
    database: Database,
) -> None:
    limits = RateLimitSettings(rc_registration=Rate(0.001, 3))
    async with open_accounts(database, rate_limits=limits) as accounts:
        body = {"username": "alice", "password": "secret"}
        session = (await accounts.client.post(REGISTER, body)).json["session"]
        auth = {"type": "m.login.dummy", "session": session}
        created = await accounts.client.post(REGISTER, {**body, "auth": auth})

        guesses = [
            await accounts.client.post(REGISTER, {"password": f"{number}", "auth": auth})
            for number in range(4)
        ]

        assert created.status == 200
        assert [response.status for response in guesses] == [403, 403, 429, 429]


async def test_registration_tokens_cannot_be_guessed_in_the_stage(database: Database) -> None:
    limits = attrs.evolve(UNLIMITED, rc_registration_token_validity=Rate(0.001, 3))
    with_token = attrs.evolve(OPEN, registration_requires_token=True)
    async with open_accounts(database, registration=with_token, rate_limits=limits) as accounts:
        await database.write(stored.insert_registration_token, "t3", None, None)
        session = (await accounts.client.post(REGISTER, {})).json["session"]

        statuses = []
        for number in range(4):
            auth = {"type": TOKEN, "token": f"t{number}", "session": session}
            body = {"username": "eve", "password": "secret", "auth": auth}
            statuses.append((await accounts.client.post(REGISTER, body)).status)

        assert statuses == [401, 401, 401, 429]


async def test_guesses_at_the_same_moment_are_limited_as_others(database: Database) -> None:
    rates = LoginRates(address=PLENTY, account=PLENTY, failed_attempts=Rate(0.001, 3))
    async with open_accounts(database, rate_limits=RateLimitSettings(rc_login=rates)) as accounts:
        await accounts.user("alice", password="secret")
        statuses: list[int] = []

        async def guess(number: int) -> None:
            response = await accounts.client.post(LOGIN, password_login(f"{number}"))
            statuses.append(response.status)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(guess, number)

        assert sorted(statuses) == [403] * 3 + [429] * 17


async def test_attempts_under_way_are_forgotten_when_they_end(accounts: Accounts) -> None:
    await accounts.user("alice", password="secret")
    statuses: list[int] = []

    async def log_in() -> None:
        statuses.append((await accounts.client.post(LOGIN, password_login("secret"))).status)

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(log_in)

    assert statuses == [200] * 9


async def test_confirmations_with_the_right_password_are_limited_per_user(
    accounts: Accounts,
) -> None:
    alice = await accounts.user("alice", password="secret")
    bob = await accounts.user("bob", password="secret")
    auth = {"type": "m.login.password", "password": "secret"}
    body = {"devices": ["X"], "auth": auth}

    statuses = [
        (await accounts.client.post(DEVICES, body, token=alice.access_token)).status
        for _ in range(30)
    ]
    other = await accounts.client.post(DEVICES, body, token=bob.access_token)
    login = await accounts.client.post(LOGIN, password_login("secret"))

    assert statuses[:20] == [200] * 20
    assert statuses[-1] == 429
    assert (other.status, login.status) == (200, 200)


async def test_failed_attempts_of_others_cannot_be_used_up_by_confirmations(
    accounts: Accounts,
) -> None:
    await accounts.user("alice", password="secret")
    eve = await accounts.user("eve", password="evil")
    statuses = []
    for password in ("secret", "wrong"):
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "ALICE"},
            "password": password,
        }
        body = {"devices": ["X"], "auth": auth}
        response = await accounts.client.post(DEVICES, body, token=eve.access_token)
        statuses.append((response.status, response.errcode, response.json["error"]))

    assert statuses[0] == statuses[1]
    assert statuses[0][:2] == (403, "M_FORBIDDEN")


async def test_user_in_one_ipv6_network_is_counted_as_one_address(database: Database) -> None:
    limits = RateLimitSettings(rc_registration=Rate(0.001, 1))
    async with open_accounts(database, rate_limits=limits) as accounts:
        statuses = []
        for number in range(12):
            accounts.client.client_ip = f"2001:db8:0:1:{number:x}::{number:x}"
            statuses.append((await accounts.client.post(REGISTER, {})).status)
        accounts.client.client_ip = "2001:db8:0:2::1"
        neighbour = await accounts.client.post(REGISTER, {})

        assert statuses == [401] * 10 + [429] * 2
        assert neighbour.status == 401


async def test_stored_uia_sessions_of_all_users_are_bounded(
    accounts: Accounts, database: Database
) -> None:
    for number in range(6):
        accounts.client.client_ip = f"192.0.2.{number}"
        await accounts.client.post(REGISTER, {})
        accounts.clock.advance(1)

    await database.write(uia_sessions.prune, 0, 4)

    assert await stored_sessions(database) == 4
