"""Passwords, the end of an account, interactive authentication and what goes with them."""

from typing import Any

import attrs
import pytest
import trio

from hs.repl.inproc import InProcHub
from hs.services.accounts.limits.appservice_users import NoAppservices
from hs.services.accounts.sessions.authenticator import TokenAuthenticator
from hs.settings.sections.accounts import PasswordPolicy, PasswordSettings, ReauthSettings
from hs.storage.database import Database
from hs.storage.devices import key_backup
from hs.storage.devices.key_backup import SessionRecord
from tests.support.accounts import Accounts, open_accounts

WHOAMI = "/_matrix/client/v3/account/whoami"
CHANGE = "/_matrix/client/v3/account/password"
DEACTIVATE = "/_matrix/client/v3/account/deactivate"
PROOF = {"type": "m.login.password", "user": "alice", "password": "secret"}
MAIL = {"email": "a@example.org", "client_secret": "s", "send_attempt": 1}
TEXT = {"country": "GB", "phone_number": "+447700900123", "client_secret": "s", "send_attempt": 1}
ELSEWHERE = {"id_server": "id.example.org", "id_access_token": "t"}
VALIDATION = {"sid": "unknown", "client_secret": "s"}


async def status_of(accounts: Accounts, token: str) -> int:
    return (await accounts.client.get(WHOAMI, token=token)).status


async def test_a_new_password_logs_other_devices_out(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    other = (await accounts.log_in("alice", "secret"))["access_token"]

    asked = await accounts.client.post(CHANGE, {"new_password": "new"}, token=alice.access_token)
    auth = {**PROOF, "session": asked.json["session"]}
    answer = await accounts.client.post(
        CHANGE, {"new_password": "new", "auth": auth}, token=alice.access_token
    )

    assert asked.status == 401
    assert asked.json["flows"] == [{"stages": ["m.login.password"]}]
    assert answer.json == {}
    assert await status_of(accounts, alice.access_token) == 200
    assert await status_of(accounts, other) == 401
    await accounts.log_in("alice", "new")


async def test_a_new_password_may_leave_other_devices(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    other = (await accounts.log_in("alice", "secret"))["access_token"]

    body = {"new_password": "new", "auth": PROOF, "logout_devices": False}
    await accounts.client.post(CHANGE, body, token=alice.access_token)

    assert await status_of(accounts, other) == 200


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({"new_password": 1}, 400, "M_BAD_JSON"),
        ({"new_password": "", "auth": PROOF}, 400, "M_INVALID_PARAM"),
        ({"new_password": "n" * 600, "auth": PROOF}, 400, "M_INVALID_PARAM"),
        ({"auth": PROOF}, 400, "M_MISSING_PARAM"),
        ({"new_password": "n", "logout_devices": "no"}, 400, "M_BAD_JSON"),
        ({"new_password": "n", "auth": {**PROOF, "password": "x"}}, 401, "M_FORBIDDEN"),
        ({"new_password": "n", "auth": {**PROOF, "password": 1}}, 401, "M_BAD_JSON"),
        ({"new_password": "n", "auth": {**PROOF, "user": "bob"}}, 403, "M_FORBIDDEN"),
        ({"new_password": "n", "auth": {"type": "m.login.dummy"}}, 401, "M_UNRECOGNIZED"),
        ({"new_password": "n", "auth": {"type": "m.login.password"}}, 401, "M_MISSING_PARAM"),
    ],
)
async def test_bad_changes_of_password_are_refused(
    accounts: Accounts, body: Any, status: int, errcode: str
) -> None:
    alice = await accounts.user("alice", password="secret")
    await accounts.user("bob", password="secret")

    answer = await accounts.client.post(CHANGE, body, token=alice.access_token)

    assert (answer.status, answer.errcode) == (status, errcode)
    if status == 401:
        assert answer.json["flows"]
        assert answer.json["session"]


async def test_a_password_is_not_changed_without_a_token(accounts: Accounts) -> None:
    answer = await accounts.client.post(CHANGE, {"new_password": "n"})

    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


@pytest.mark.parametrize(
    ("password", "errcode"),
    [
        ("Sh0rt-x", "M_PASSWORD_TOO_SHORT"),
        ("Longenough-", "M_PASSWORD_NO_DIGIT"),
        ("Longenough1", "M_PASSWORD_NO_SYMBOL"),
        ("longenough-1", "M_PASSWORD_NO_UPPERCASE"),
        ("LONGENOUGH-1", "M_PASSWORD_NO_LOWERCASE"),
    ],
)
async def test_weak_passwords_are_refused(database: Database, password: str, errcode: str) -> None:
    policy = PasswordPolicy(
        enabled=True,
        minimum_length=8,
        require_digit=True,
        require_symbol=True,
        require_uppercase=True,
        require_lowercase=True,
    )
    async with open_accounts(database, passwords=PasswordSettings(policy=policy)) as accounts:
        alice = await accounts.user("alice", password="Secret-1")
        answer = await accounts.client.post(
            CHANGE, {"new_password": password}, token=alice.access_token
        )

        assert (answer.status, answer.errcode) == (400, errcode)


async def test_a_closed_account_is_gone_but_its_name_stays_taken(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")

    answer = await accounts.client.post(
        DEACTIVATE, {"auth": PROOF, "erase": True}, token=alice.access_token
    )

    assert answer.json == {"id_server_unbind_result": "success"}
    assert await status_of(accounts, alice.access_token) == 401
    assert ("departed", "@alice:test") in accounts.watching.seen
    profile = await accounts.client.get("/_matrix/client/v3/profile/@alice:test")
    assert (profile.status, profile.errcode) == (404, "M_NOT_FOUND")
    taken = await accounts.client.post("/_matrix/client/v3/register", {"username": "alice"})
    assert taken.errcode == "M_USER_IN_USE"
    erased = await accounts.erased.erased_among({alice.user_id})
    assert erased == {alice.user_id}


@pytest.mark.parametrize("erase", [False, True])
async def test_keys_of_erased_users_are_forgotten(accounts: Accounts, erase: bool) -> None:
    alice, bob = await accounts.user("alice"), await accounts.user("bob")
    versions = {
        one.user_id: await accounts.database.write(key_backup.create, one.user_id, "m.x", b"{}")
        for one in (alice, bob)
    }
    session = SessionRecord("!room", "session", 0, 0, 0, b"{}")
    for user_id, version in versions.items():
        await accounts.database.write(key_backup.put_sessions, user_id, version, [session])

    await accounts.lifecycle.deactivate(alice.user_id, erase=erase)

    kept = {
        user_id: await accounts.database.read(key_backup.count, user_id, version)
        for user_id, version in versions.items()
    }
    assert kept == {alice.user_id: 0 if erase else 1, bob.user_id: 1}
    found = await accounts.database.read(key_backup.latest, alice.user_id)
    assert (found is None) is erase


async def test_erased_users_are_known_at_once(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    bob = await accounts.user("bob")
    both = {alice.user_id, bob.user_id}
    assert await accounts.erased.erased_among(both) == frozenset()

    await accounts.lifecycle.deactivate(alice.user_id, erase=True)
    await accounts.lifecycle.deactivate(bob.user_id, erase=False)

    assert await accounts.erased.erased_among(both) == {alice.user_id}


async def test_a_proof_serves_only_what_it_was_asked_for(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    asked = await accounts.client.post(CHANGE, {"new_password": "n"}, token=alice.access_token)
    auth = {**PROOF, "session": asked.json["session"]}

    answer = await accounts.client.post(DEACTIVATE, {"auth": auth}, token=alice.access_token)

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_a_proof_is_not_asked_for_twice_within_the_grace_period(
    database: Database,
) -> None:
    async with open_accounts(database, reauth=ReauthSettings(session_timeout=15_000)) as accounts:
        await accounts.user("alice", password="secret")
        fresh = (await accounts.log_in("alice", "secret"))["access_token"]
        body = {"new_password": "secret", "logout_devices": False}

        at_once = await accounts.client.post(CHANGE, body, token=fresh)
        accounts.clock.advance(15_000)
        late = await accounts.client.post(CHANGE, body, token=fresh)
        await accounts.client.post(CHANGE, {**body, "auth": PROOF}, token=fresh)
        again = await accounts.client.post(CHANGE, body, token=fresh)

        assert at_once.status == 200
        assert late.status == 401
        assert again.status == 200


async def test_sessions_of_authentication_run_out(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    asked = await accounts.client.post(CHANGE, {"new_password": "n"}, token=alice.access_token)
    accounts.clock.advance(3 * 86_400_000)
    auth = {**PROOF, "session": asked.json["session"]}

    answer = await accounts.client.post(
        CHANGE, {"new_password": "n", "auth": auth}, token=alice.access_token
    )
    await accounts.interactive.forget_old()

    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")


async def test_a_token_revoked_by_one_process_is_dead_in_all(database: Database) -> None:
    hub = InProcHub()
    async with (
        open_accounts(database, hub=hub, instance="main") as one,
        open_accounts(database, hub=hub, instance="worker") as other,
    ):
        alice = await one.user("alice", password="secret")
        assert await status_of(one, alice.access_token) == 200
        assert await status_of(other, alice.access_token) == 200
        assert other.authenticator.authenticate_nowait(alice.access_token, "", "") is not None

        await one.client.post("/_matrix/client/v3/logout", token=alice.access_token)

        assert other.authenticator.authenticate_nowait(alice.access_token, "", "") is None
        assert await status_of(other, alice.access_token) == 401


async def test_nothing_is_trusted_but_the_database_while_others_are_not_heard(
    accounts: Accounts,
) -> None:
    hears = True
    authenticator = TokenAuthenticator(
        accounts.database,
        accounts.feed,
        accounts.clock,
        NoAppservices(),
        accounts.last_seen,
        accounts.revocations,
        accounts.proving.consent.rule,
        hears_others=lambda: hears,
    )
    token = (await accounts.user("alice")).access_token
    await authenticator.requester_for(token, "", "")

    assert authenticator.authenticate_nowait(token, "", "") is not None
    hears = False
    assert authenticator.authenticate_nowait(token, "", "") is None


async def test_a_stage_may_go_to_another_process(database: Database) -> None:
    hub = InProcHub()
    async with (
        open_accounts(database, hub=hub, instance="main") as one,
        open_accounts(database, hub=hub, instance="worker") as other,
    ):
        asked = await one.client.post("/_matrix/client/v3/register", {})
        auth = {"type": "m.login.dummy", "session": asked.json["session"]}
        answer = await other.client.post(
            "/_matrix/client/v3/register", {"username": "a", "password": "x", "auth": auth}
        )

        assert answer.status == 200


async def test_a_token_being_looked_up_while_it_is_revoked_is_not_remembered(
    accounts: Accounts,
) -> None:
    alice = await accounts.user("alice")

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(accounts.client.get, WHOAMI)
            nursery.start_soon(lambda: accounts.client.get(WHOAMI, token=alice.access_token))
        nursery.start_soon(accounts.sessions.close_all, alice.user_id)

    assert await status_of(accounts, alice.access_token) == 401


async def test_changed_rights_are_seen_at_once(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    assert await status_of(accounts, alice.access_token) == 200
    await accounts.database.write(lock_user, "@alice:test")
    accounts.revocations.users("@alice:test")

    answer = await accounts.client.get(WHOAMI, token=alice.access_token)

    assert (answer.status, answer.errcode) == (401, "M_USER_LOCKED")
    assert answer.json["soft_logout"] is True
    logout = await accounts.client.post("/_matrix/client/v3/logout", token=alice.access_token)
    assert logout.status == 200


async def lock_user(tx: Any, user_id: str) -> None:
    await tx.execute("UPDATE users SET is_locked = 1 WHERE user_id = $1", user_id)


async def test_accounts_have_no_addresses(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    answer = await accounts.client.get("/_matrix/client/v3/account/3pid", token=alice.access_token)

    assert answer.json == {"threepids": []}


@pytest.mark.parametrize("token", ["nonsense", "syt_x_y_z", "ünknown", "a" * 5000, "\ud800"])
async def test_unknown_tokens_are_refused(accounts: Accounts, token: str) -> None:
    answer = await accounts.client.get(
        WHOAMI, headers={"authorization": f"Bearer {token.encode('utf-8', 'replace').decode()}"}
    )

    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert answer.json["soft_logout"] is False


async def test_the_pepper_matters(database: Database) -> None:
    salted = PasswordSettings(pepper="salt")
    async with open_accounts(database, passwords=salted) as accounts:
        await accounts.user("alice", password="secret")
        await accounts.log_in("alice", "secret")
    async with open_accounts(database, passwords=attrs.evolve(salted, pepper="other")) as accounts:
        body = {"type": "m.login.password", "user": "alice", "password": "secret"}
        assert (await accounts.client.post("/_matrix/client/v3/login", body)).status == 403


@pytest.mark.parametrize(
    ("path", "body", "status", "errcode"),
    [
        ("register/email/requestToken", {}, 400, "M_MISSING_PARAM"),
        ("register/email/requestToken", MAIL, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("account/3pid/msisdn/requestToken", TEXT, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("register/email/requestToken", {**MAIL, **ELSEWHERE}, 400, "M_SERVER_NOT_TRUSTED"),
        ("account/3pid", {}, 400, "M_MISSING_PARAM"),
        ("account/3pid", {"three_pid_creds": VALIDATION}, 403, "M_THREEPID_AUTH_FAILED"),
        ("account/3pid/add", {}, 400, "M_MISSING_PARAM"),
        ("account/3pid/add", VALIDATION, 401, None),
        ("account/3pid/delete", {"medium": "email"}, 400, "M_MISSING_PARAM"),
        ("account/3pid/delete", {"medium": "email", "address": "a@b.c"}, 200, None),
    ],
)
async def test_without_a_mail_server_addresses_cannot_be_added(
    accounts: Accounts, path: str, body: Any, status: int, errcode: str | None
) -> None:
    alice = await accounts.user("alice")

    answer = await accounts.client.post(
        f"/_matrix/client/v3/{path}", body, token=alice.access_token
    )

    assert (answer.status, answer.errcode) == (status, errcode)
