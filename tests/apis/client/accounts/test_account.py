"""Password changes, deactivation, interactive authentication, and access tokens."""

from typing import Any

import attrs
import pytest
import trio

from hs.core.ids import RoomID, UserID
from hs.core.streams import EVENTS
from hs.repl.inproc import InProcTransport
from hs.services.devices.key_backup import KeyBackups, SessionKey
from hs.settings.sections.accounts import PasswordPolicy, PasswordSettings, ReauthSettings
from hs.storage.database import Database
from hs.storage.devices import key_backup
from tests.support.accounts import Accounts, open_accounts, open_pair

LIMIT_S = 30.0
WHOAMI = "/_matrix/client/v3/account/whoami"
CHANGE = "/_matrix/client/v3/account/password"
DEACTIVATE = "/_matrix/client/v3/account/deactivate"
PROOF = {"type": "m.login.password", "user": "alice", "password": "secret"}
MAIL = {"email": "a@example.org", "client_secret": "s", "send_attempt": 1}
TEXT = {"country": "GB", "phone_number": "+447700900123", "client_secret": "s", "send_attempt": 1}
IDENTITY_SERVER = {"id_server": "id.example.org", "id_access_token": "t"}
VALIDATION = {"sid": "unknown", "client_secret": "s"}


async def status_of(accounts: Accounts, token: str) -> int:
    return (await accounts.client.get(WHOAMI, token=token)).status


async def test_password_change_logs_out_other_devices(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    other_token = (await accounts.log_in("alice", "secret"))["access_token"]

    challenge = await accounts.client.post(
        CHANGE, {"new_password": "new"}, token=alice.access_token
    )
    auth = {**PROOF, "session": challenge.json["session"]}
    response = await accounts.client.post(
        CHANGE, {"new_password": "new", "auth": auth}, token=alice.access_token
    )

    assert challenge.status == 401
    assert challenge.json["flows"] == [{"stages": ["m.login.password"]}]
    assert response.json == {}
    assert await status_of(accounts, alice.access_token) == 200
    assert await status_of(accounts, other_token) == 401
    await accounts.log_in("alice", "new")


async def test_password_change_can_keep_other_devices(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    other_token = (await accounts.log_in("alice", "secret"))["access_token"]

    body = {"new_password": "new", "auth": PROOF, "logout_devices": False}
    await accounts.client.post(CHANGE, body, token=alice.access_token)

    assert await status_of(accounts, other_token) == 200


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
async def test_invalid_password_change_is_rejected(
    accounts: Accounts, body: Any, status: int, errcode: str
) -> None:
    alice = await accounts.user("alice", password="secret")
    await accounts.user("bob", password="secret")

    response = await accounts.client.post(CHANGE, body, token=alice.access_token)

    assert (response.status, response.errcode) == (status, errcode)
    if status == 401:
        assert response.json["flows"]
        assert response.json["session"]


async def test_password_change_without_a_token_is_rejected(accounts: Accounts) -> None:
    response = await accounts.client.post(CHANGE, {"new_password": "n"})

    assert (response.status, response.errcode) == (401, "M_MISSING_TOKEN")


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
async def test_weak_password_is_rejected(database: Database, password: str, errcode: str) -> None:
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
        response = await accounts.client.post(
            CHANGE, {"new_password": password}, token=alice.access_token
        )

        assert (response.status, response.errcode) == (400, errcode)


async def test_deactivated_account_disappears_but_its_name_stays_in_use(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    room = await accounts.client.post("/_matrix/client/v3/createRoom", {}, token=alice.access_token)

    response = await accounts.client.post(
        DEACTIVATE, {"auth": PROOF, "erase": True}, token=alice.access_token
    )

    assert response.json == {"id_server_unbind_result": "success"}
    assert await status_of(accounts, alice.access_token) == 401
    await leave_rooms(accounts, room.json["room_id"], alice.user_id)
    profile = await accounts.client.get("/_matrix/client/v3/profile/@alice:test")
    assert (profile.status, profile.errcode) == (404, "M_NOT_FOUND")
    second_registration = await accounts.client.post(
        "/_matrix/client/v3/register", {"username": "alice"}
    )
    assert second_registration.errcode == "M_USER_IN_USE"
    erased = await accounts.services.erased.erased_among({alice.user_id})
    assert erased == {alice.user_id}


async def leave_rooms(accounts: Accounts, room_id: RoomID, user_id: UserID) -> None:
    """Run the duty that removes deactivated users until it has written an event."""
    written = trio.Event()
    accounts.process.base.feed.subscribe(EVENTS, lambda batch: written.set())
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accounts.process.run_duty, "departures")
            await written.wait()
            nursery.cancel_scope.cancel()
    memberships = accounts.process.services.core.rooms.memberships
    assert await memberships.membership(room_id, user_id) == "leave"


@pytest.mark.parametrize("erase", [False, True])
async def test_key_backup_is_deleted_only_if_the_user_is_erased(
    accounts: Accounts, erase: bool
) -> None:
    alice, bob = await accounts.user("alice"), await accounts.user("bob")
    versions = {
        session.user_id: await accounts.database.write(
            key_backup.create, session.user_id, "m.x", b"{}"
        )
        for session in (alice, bob)
    }
    key = SessionKey(0, 0, is_verified=False, session_data={})
    backups = KeyBackups(accounts.database)
    for user_id, version in versions.items():
        await backups.put(user_id, str(version), {"!room": {"session": key}})

    await accounts.lifecycle.deactivate(alice.user_id, erase=erase)

    keys = [
        await accounts.database.read(key_backup.list_sessions, user_id, version, None, None)
        for user_id, version in versions.items()
    ]
    assert [len(keys_of_user) for keys_of_user in keys] == [0 if erase else 1, 1]
    latest_version = await accounts.database.read(key_backup.latest, alice.user_id)
    assert (latest_version is None) is erase


async def test_erased_user_is_known_immediately(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    bob = await accounts.user("bob")
    both = {alice.user_id, bob.user_id}
    assert await accounts.services.erased.erased_among(both) == frozenset()

    await accounts.lifecycle.deactivate(alice.user_id, erase=True)
    await accounts.lifecycle.deactivate(bob.user_id, erase=False)

    assert await accounts.services.erased.erased_among(both) == {alice.user_id}


async def test_uia_session_is_valid_only_for_its_operation(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    challenge = await accounts.client.post(CHANGE, {"new_password": "n"}, token=alice.access_token)
    auth = {**PROOF, "session": challenge.json["session"]}

    response = await accounts.client.post(DEACTIVATE, {"auth": auth}, token=alice.access_token)

    assert (response.status, response.errcode) == (403, "M_FORBIDDEN")


async def test_recent_login_replaces_uia_within_the_grace_period(
    database: Database,
) -> None:
    async with open_accounts(database, reauth=ReauthSettings(session_timeout=15_000)) as accounts:
        await accounts.user("alice", password="secret")
        token = (await accounts.log_in("alice", "secret"))["access_token"]
        body = {"new_password": "secret", "logout_devices": False}

        fresh_response = await accounts.client.post(CHANGE, body, token=token)
        accounts.clock.advance(15_000)
        expired_response = await accounts.client.post(CHANGE, body, token=token)
        await accounts.client.post(CHANGE, {**body, "auth": PROOF}, token=token)
        renewed_response = await accounts.client.post(CHANGE, body, token=token)

        assert fresh_response.status == 200
        assert expired_response.status == 401
        assert renewed_response.status == 200


async def test_uia_session_expires(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    challenge = await accounts.client.post(CHANGE, {"new_password": "n"}, token=alice.access_token)
    accounts.clock.advance(3 * 86_400_000)
    auth = {**PROOF, "session": challenge.json["session"]}

    response = await accounts.client.post(
        CHANGE, {"new_password": "n", "auth": auth}, token=alice.access_token
    )
    await accounts.session_services.interactive.delete_expired_sessions()

    assert (response.status, response.errcode) == (400, "M_UNKNOWN")


async def test_token_revoked_by_one_process_is_rejected_by_all(database: Database) -> None:
    async with open_pair(database) as (main, worker):
        alice = await main.user("alice", password="secret")
        assert await status_of(main, alice.access_token) == 200
        assert await status_of(worker, alice.access_token) == 200
        assert worker.authenticator.authenticate_nowait(alice.access_token, "", "") is not None

        await main.client.post("/_matrix/client/v3/logout", token=alice.access_token)

        assert worker.authenticator.authenticate_nowait(alice.access_token, "", "") is None
        assert await status_of(worker, alice.access_token) == 401


async def test_token_cache_is_bypassed_while_replication_is_down(database: Database) -> None:
    async with open_pair(database) as (main, worker):
        token = (await main.user("alice")).access_token
        assert await status_of(worker, token) == 200
        transport = worker.process.base.transport
        assert isinstance(transport, InProcTransport)

        assert worker.authenticator.authenticate_nowait(token, "", "") is not None
        transport.connected = False
        assert worker.authenticator.authenticate_nowait(token, "", "") is None


async def test_uia_stage_can_be_completed_at_another_process(database: Database) -> None:
    async with open_pair(database) as (main, worker):
        challenge = await main.client.post("/_matrix/client/v3/register", {})
        auth = {"type": "m.login.dummy", "session": challenge.json["session"]}
        response = await worker.client.post(
            "/_matrix/client/v3/register", {"username": "a", "password": "x", "auth": auth}
        )

        assert response.status == 200


async def test_token_revoked_during_its_lookup_is_not_cached(
    accounts: Accounts,
) -> None:
    alice = await accounts.user("alice")

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(accounts.client.get, WHOAMI)
            nursery.start_soon(lambda: accounts.client.get(WHOAMI, token=alice.access_token))
        nursery.start_soon(accounts.sessions.close_all, alice.user_id)

    assert await status_of(accounts, alice.access_token) == 401


async def test_lock_takes_effect_immediately(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    assert await status_of(accounts, alice.access_token) == 200
    await accounts.database.write(lock_user, "@alice:test")
    accounts.session_services.revocations.announce_users("@alice:test")

    response = await accounts.client.get(WHOAMI, token=alice.access_token)

    assert (response.status, response.errcode) == (401, "M_USER_LOCKED")
    assert response.json["soft_logout"] is True
    logout = await accounts.client.post("/_matrix/client/v3/logout", token=alice.access_token)
    assert logout.status == 200


async def lock_user(tx: Any, user_id: str) -> None:
    await tx.execute("UPDATE users SET is_locked = 1 WHERE user_id = $1", user_id)


async def test_new_account_has_no_threepids(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    response = await accounts.client.get(
        "/_matrix/client/v3/account/3pid", token=alice.access_token
    )

    assert response.json == {"threepids": []}


@pytest.mark.parametrize("token", ["nonsense", "syt_x_y_z", "ünknown", "a" * 5000, "\ud800"])
async def test_unknown_token_is_rejected(accounts: Accounts, token: str) -> None:
    response = await accounts.client.get(
        WHOAMI, headers={"authorization": f"Bearer {token.encode('utf-8', 'replace').decode()}"}
    )

    assert (response.status, response.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert response.json["soft_logout"] is False


async def test_password_hash_depends_on_the_pepper(database: Database) -> None:
    passwords = PasswordSettings(pepper="salt")
    async with open_accounts(database, passwords=passwords) as accounts:
        await accounts.user("alice", password="secret")
        await accounts.log_in("alice", "secret")
    async with open_accounts(
        database, passwords=attrs.evolve(passwords, pepper="pepper")
    ) as accounts:
        body = {"type": "m.login.password", "user": "alice", "password": "secret"}
        assert (await accounts.client.post("/_matrix/client/v3/login", body)).status == 403


@pytest.mark.parametrize(
    ("path", "body", "status", "errcode"),
    [
        ("register/email/requestToken", {}, 400, "M_MISSING_PARAM"),
        ("register/email/requestToken", MAIL, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("account/3pid/msisdn/requestToken", TEXT, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("register/email/requestToken", {**MAIL, **IDENTITY_SERVER}, 400, "M_SERVER_NOT_TRUSTED"),
        ("account/3pid", {}, 400, "M_MISSING_PARAM"),
        ("account/3pid", {"three_pid_creds": VALIDATION}, 403, "M_THREEPID_AUTH_FAILED"),
        ("account/3pid/add", {}, 400, "M_MISSING_PARAM"),
        ("account/3pid/add", VALIDATION, 401, None),
        ("account/3pid/delete", {"medium": "email"}, 400, "M_MISSING_PARAM"),
        ("account/3pid/delete", {"medium": "email", "address": "a@b.c"}, 200, None),
    ],
)
async def test_threepids_cannot_be_validated_without_a_mail_server(
    accounts: Accounts, path: str, body: Any, status: int, errcode: str | None
) -> None:
    alice = await accounts.user("alice")

    response = await accounts.client.post(
        f"/_matrix/client/v3/{path}", body, token=alice.access_token
    )

    assert (response.status, response.errcode) == (status, errcode)
