"""Registration over HTTP."""

import re
from typing import Any

import pytest
import trio

from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.rate_limits import Rate, RateLimitSettings
from hs.storage.accounts import users as stored
from hs.storage.database import Database
from tests.support.accounts import Accounts, open_accounts

GUEST_KEYS = {"user_id", "home_server", "access_token", "device_id"}
REGISTER = "/_matrix/client/v3/register"
DUMMY = {"type": "m.login.dummy"}
TOKEN = "m.login.registration_token"
WITH_TOKEN = RegistrationSettings(
    enable_registration=True, registration_requires_token=True, bcrypt_rounds=4
)


async def test_first_response_lists_the_flows(accounts: Accounts) -> None:
    response = await accounts.client.post(REGISTER, {})

    assert response.status == 401
    assert response.json["flows"] == [{"stages": ["m.login.dummy"]}]
    assert response.json["params"] == {}
    assert response.errcode is None


async def test_user_registers_in_two_requests_and_is_logged_in(accounts: Accounts) -> None:
    body = {"username": "alice", "password": "secret", "device_id": "PHONE"}
    first = await accounts.client.post(REGISTER, body)
    auth = {**DUMMY, "session": first.json["session"]}

    response = await accounts.client.post(REGISTER, {**body, "auth": auth})

    assert response.status == 200
    assert response.json["user_id"] == "@alice:test"
    assert response.json["device_id"] == "PHONE"
    token = response.json["access_token"]
    assert re.fullmatch(r"syt_YWxpY2U_[A-Za-z]{20}_[0-9A-Za-z]{6}", token)
    whoami = await accounts.client.get("/_matrix/client/v3/account/whoami", token=token)
    assert whoami.json == {"user_id": "@alice:test", "device_id": "PHONE", "is_guest": False}


async def test_parameters_of_the_first_request_are_remembered(accounts: Accounts) -> None:
    body = {"username": "Alice", "password": "secret", "device_id": "PHONE"}
    first = await accounts.client.post(REGISTER, body)
    auth = {**DUMMY, "session": first.json["session"]}

    response = await accounts.client.post(REGISTER, {"auth": auth})

    assert (response.json["user_id"], response.json["device_id"]) == ("@alice:test", "PHONE")
    login = {"type": "m.login.password", "user": "alice", "password": "secret"}
    assert (await accounts.client.post("/_matrix/client/v3/login", login)).status == 200


async def test_repeated_registration_logs_in_again(accounts: Accounts) -> None:
    body: dict[str, Any] = {"username": "alice", "password": "secret"}
    first = await accounts.client.post(REGISTER, body)
    body["auth"] = {**DUMMY, "session": first.json["session"]}

    response = await accounts.client.post(REGISTER, body)
    repeated = await accounts.client.post(REGISTER, body)
    wrong_password = await accounts.client.post(REGISTER, {**body, "password": "guess"})

    assert response.json["user_id"] == repeated.json["user_id"] == "@alice:test"
    assert response.json["access_token"] != repeated.json["access_token"]
    assert (wrong_password.status, wrong_password.errcode) == (403, "M_FORBIDDEN")


async def test_guest_can_upgrade_only_under_their_own_name(accounts: Accounts) -> None:
    guest = (await accounts.client.post(f"{REGISTER}?kind=guest", {})).json
    token, name = guest["access_token"], guest["user_id"][1:].split(":")[0]
    whoami = "/_matrix/client/v3/account/whoami"
    before = await accounts.client.get(whoami, token=token)
    body = {"username": name, "password": "x", "guest_access_token": token, "auth": DUMMY}

    other_name = await accounts.client.post(REGISTER, {**body, "username": "alice"})
    response = await accounts.client.post(REGISTER, body)
    repeated = await accounts.client.post(REGISTER, body)

    assert (other_name.status, other_name.errcode) == (403, "M_FORBIDDEN")
    assert (response.status, response.json["user_id"]) == (200, guest["user_id"])
    after = await accounts.client.get(whoami, token=token)
    assert (before.json["is_guest"], after.json["is_guest"]) == (True, False)
    assert (repeated.status, repeated.errcode) == (403, "M_FORBIDDEN")


async def test_single_stage_needs_no_session(accounts: Accounts) -> None:
    response = await accounts.client.post(
        REGISTER, {"username": "bob", "password": "x", "auth": DUMMY, "inhibit_login": True}
    )

    assert response.json == {"user_id": "@bob:test", "home_server": "test"}


async def test_missing_user_name_is_generated(accounts: Accounts) -> None:
    response = await accounts.client.post(REGISTER, {"password": "x", "auth": DUMMY})

    assert response.status == 200
    assert response.json["user_id"].endswith(":test")


async def test_concurrent_registrations_of_one_name_create_one_account(accounts: Accounts) -> None:
    responses: list[Any] = []

    async def register() -> None:
        body = {"username": "carol", "password": "x", "auth": DUMMY}
        responses.append(await accounts.client.post(REGISTER, body))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(register)

    assert sorted(response.status for response in responses) == [200, 400, 400, 400]
    assert {response.errcode for response in responses if response.status == 400} == {
        "M_USER_IN_USE"
    }


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({"username": ""}, 400, "M_INVALID_USERNAME"),
        ({"username": "ali ce"}, 400, "M_INVALID_USERNAME"),
        ({"username": "_bridge"}, 400, "M_INVALID_USERNAME"),
        ({"username": "123"}, 400, "M_INVALID_USERNAME"),
        ({"username": "a" * 250}, 400, "M_INVALID_USERNAME"),
        ({"username": "a" * 50_000}, 400, "M_INVALID_USERNAME"),
        ({"username": "a\0b"}, 400, None),
        ({"username": 1}, 400, "M_BAD_JSON"),
        ({"username": ["a"]}, 400, "M_BAD_JSON"),
        ({"password": 1, "auth": DUMMY}, 400, "M_BAD_JSON"),
        ({"auth": DUMMY}, 400, "M_MISSING_PARAM"),
        ({"password": "x" * 600, "auth": DUMMY}, 400, "M_INVALID_PARAM"),
        ({"password": "", "auth": DUMMY}, 400, "M_INVALID_PARAM"),
        ({"auth": "dummy"}, 400, "M_BAD_JSON"),
        ({"auth": {"type": 1}}, 400, "M_BAD_JSON"),
        ({"auth": {"session": 1}}, 400, "M_BAD_JSON"),
        ({"auth": {"session": "none"}}, 400, "M_UNKNOWN"),
        ({"auth": {"type": "m.login.nothing"}}, 401, "M_UNRECOGNIZED"),
        ({"auth": {"type": "m.login.password"}}, 401, "M_UNRECOGNIZED"),
        ({"device_id": 5, "password": "x", "auth": DUMMY}, 400, "M_BAD_JSON"),
        ({"device_id": "d" * 600, "password": "x", "auth": DUMMY}, 400, "M_INVALID_PARAM"),
        ({"initial_device_display_name": {}, "auth": DUMMY}, 400, "M_BAD_JSON"),
        ({"inhibit_login": "no"}, 400, "M_BAD_JSON"),
        ({"refresh_token": 1}, 400, "M_BAD_JSON"),
        ({"type": "m.login.application_service", "username": "x"}, 401, "M_MISSING_TOKEN"),
    ],
)
async def test_invalid_registration_is_rejected(
    accounts: Accounts, body: dict[str, Any], status: int, errcode: str | None
) -> None:
    response = await accounts.client.post(REGISTER, body)

    assert response.status == status
    assert errcode is None or response.errcode == errcode


async def test_user_name_in_use_is_rejected_before_authentication(accounts: Accounts) -> None:
    await accounts.user("alice")

    response = await accounts.client.post(REGISTER, {"username": "alice"})
    available = await accounts.client.get(f"{REGISTER}/available?username=alice")
    unused_name = await accounts.client.get(f"{REGISTER}/available?username=alice2")

    assert (response.status, response.errcode) == (400, "M_USER_IN_USE")
    assert (available.status, available.errcode) == (400, "M_USER_IN_USE")
    assert unused_name.json == {"available": True}


async def test_registration_session_is_not_valid_for_other_operations(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="x")
    first = await accounts.client.post(REGISTER, {})
    auth = {"type": "m.login.password", "password": "x", "session": first.json["session"]}

    response = await accounts.client.post(
        "/_matrix/client/v3/account/deactivate", {"auth": auth}, token=alice.access_token
    )

    assert (response.status, response.errcode) == (403, "M_FORBIDDEN")


async def test_guests_have_numeric_names_and_limited_access(accounts: Accounts) -> None:
    response = await accounts.client.post(f"{REGISTER}?kind=guest", {})
    token = response.json["access_token"]
    whoami = await accounts.client.get("/_matrix/client/v3/account/whoami", token=token)
    refused = await accounts.client.get("/_matrix/client/v3/account/3pid", token=token)
    deactivation = await accounts.client.post(
        "/_matrix/client/v3/account/deactivate", {}, token=token
    )

    assert response.status == 200
    assert re.fullmatch(r"@\d+:test", response.json["user_id"])
    assert whoami.json["is_guest"] is True
    assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (deactivation.status, deactivation.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_only_the_device_name_is_read_from_a_guest_registration(accounts: Accounts) -> None:
    invalid_texts = dict.fromkeys(("auth", "password", "inhibit_login", "refresh_token"), "x\0")
    invalid_lists = {key: [1] for key in ("username", "device_id", "type", "guest_access_token")}
    body = {**invalid_texts, **invalid_lists, "initial_device_display_name": "Kiosk"}

    response = await accounts.client.post(f"{REGISTER}?kind=guest", body)
    invalid = await accounts.client.post(
        f"{REGISTER}?kind=guest", {"initial_device_display_name": 1}
    )

    assert (response.status, set(response.json)) == (200, GUEST_KEYS)
    (device,) = await accounts.services.devices.all_of(response.json["user_id"])
    assert (device.device_id, device.display_name) == (response.json["device_id"], "Kiosk")
    assert (invalid.status, invalid.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "body",
    [
        {"username": 1},
        {"device_id": ["A"]},
        {"inhibit_login": "yes"},
        {"auth": "x"},
        {"password": "a\0b"},
        [],
    ],
)
async def test_registration_body_is_type_checked(accounts: Accounts, body: Any) -> None:
    response = await accounts.client.post(REGISTER, body)

    assert (response.status, response.errcode) == (400, "M_BAD_JSON")


async def test_registration_is_disabled_by_default(database: Database) -> None:
    async with open_accounts(database, registration=RegistrationSettings()) as accounts:
        response = await accounts.client.post(REGISTER, {"username": "a", "password": "x"})
        available = await accounts.client.get(f"{REGISTER}/available?username=a")

        assert (response.status, response.errcode) == (403, "M_FORBIDDEN")
        assert available.status == 403


async def test_registration_token_is_limited_to_its_uses(database: Database) -> None:
    async with open_accounts(database, registration=WITH_TOKEN) as accounts:
        await database.write(stored.insert_registration_token, "abc", 1, None)
        validity = f"/_matrix/client/v1/register/{TOKEN}/validity?token="
        flows = await accounts.client.post(REGISTER, {})
        before = await accounts.client.get(validity + "abc")
        invalid = await accounts.client.post(REGISTER, {"auth": {"type": TOKEN, "token": "abd"}})
        # A session that has presented the token reserves one use before it registers.
        reserving = await accounts.client.post(REGISTER, {"auth": {"type": TOKEN, "token": "abc"}})
        second = await accounts.client.post(REGISTER, {"auth": {"type": TOKEN, "token": "abc"}})

        assert flows.json["flows"] == [{"stages": [TOKEN]}]
        assert before.json == {"valid": True}
        assert (invalid.status, invalid.errcode) == (401, "M_FORBIDDEN")
        assert invalid.json["completed"] == []
        assert reserving.errcode == "M_MISSING_PARAM"
        assert (second.status, second.errcode) == (401, "M_FORBIDDEN")
        assert (await accounts.client.get(validity + "abc")).json == {"valid": False}


@pytest.mark.parametrize("name", [{"username": "alice"}, {}])
async def test_concurrent_requests_of_one_session_create_one_account(
    accounts: Accounts, name: dict[str, Any]
) -> None:
    body: dict[str, Any] = {**name, "password": "secret"}
    session = (await accounts.client.post(REGISTER, body)).json["session"]
    body["auth"] = {"type": "m.login.dummy", "session": session}
    responses = []

    async def register() -> None:
        responses.append(await accounts.client.post(REGISTER, body))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(register)

    assert [response.status for response in responses] == [200] * 6
    assert len({response.json["user_id"] for response in responses}) == 1


async def test_one_use_of_a_token_is_reserved_by_one_session(database: Database) -> None:
    async with open_accounts(database, registration=WITH_TOKEN) as accounts:
        await database.write(stored.insert_registration_token, "abc", 1, None)
        sessions = [(await accounts.client.post(REGISTER, {})).json["session"] for _ in range(12)]
        holders: list[str] = []

        async def present_token(session: str) -> None:
            auth = {"type": TOKEN, "token": "abc", "session": session}
            response = await accounts.client.post(REGISTER, {"auth": auth})
            if (
                response.errcode == "M_MISSING_PARAM"
            ):  # the password is missing, the token was accepted
                holders.append(session)

        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(present_token, session)

        assert len(holders) == 1


async def test_token_validity_can_be_checked_if_tokens_are_not_required(
    accounts: Accounts,
) -> None:
    await accounts.database.write(stored.insert_registration_token, "abc", None, None)
    validity = f"/_matrix/client/v1/register/{TOKEN}/validity?token="

    known = await accounts.client.get(validity + "abc")
    unknown = await accounts.client.get(validity + "abd")

    assert (known.json, unknown.json) == ({"valid": True}, {"valid": False})


async def test_used_registration_token_is_rejected(database: Database) -> None:
    async with open_accounts(database, registration=WITH_TOKEN) as accounts:
        await database.write(stored.insert_registration_token, "abc", 1, None)
        session = (await accounts.client.post(REGISTER, {})).json["session"]
        auth = {"type": TOKEN, "token": "abc", "session": session}
        body = {"username": "alice", "password": "x", "auth": auth}

        response = await accounts.client.post(REGISTER, body)
        repeated = await accounts.client.post(
            REGISTER,
            {"username": "bob", "password": "x", "auth": {"type": TOKEN, "token": "abc"}},
        )

        assert response.status == 200
        assert (repeated.status, repeated.errcode) == (401, "M_FORBIDDEN")


async def test_registrations_but_not_stages_are_rate_limited_by_address(
    database: Database,
) -> None:
    limits = RateLimitSettings(rc_registration=Rate(0.01, 1))
    async with open_accounts(database, rate_limits=limits) as accounts:
        for _ in range(3):
            assert (await accounts.client.post(REGISTER, {})).status == 401
        body = {"password": "x", "auth": DUMMY}
        first = await accounts.client.post(REGISTER, body)
        second = await accounts.client.post(REGISTER, body)

        assert first.status == 200
        assert (second.status, second.errcode) == (429, "M_LIMIT_EXCEEDED")
        assert second.json["retry_after_ms"] > 0
