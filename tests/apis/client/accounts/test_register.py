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


async def test_the_first_answer_names_the_stages(accounts: Accounts) -> None:
    answer = await accounts.client.post(REGISTER, {})

    assert answer.status == 401
    assert answer.json["flows"] == [{"stages": ["m.login.dummy"]}]
    assert answer.json["params"] == {}
    assert answer.errcode is None


async def test_a_user_registers_in_two_steps_and_is_logged_in(accounts: Accounts) -> None:
    wish = {"username": "alice", "password": "secret", "device_id": "PHONE"}
    first = await accounts.client.post(REGISTER, wish)
    auth = {**DUMMY, "session": first.json["session"]}

    answer = await accounts.client.post(REGISTER, {**wish, "auth": auth})

    assert answer.status == 200
    assert answer.json["user_id"] == "@alice:test"
    assert answer.json["device_id"] == "PHONE"
    token = answer.json["access_token"]
    assert re.fullmatch(r"syt_YWxpY2U_[A-Za-z]{20}_[0-9A-Za-z]{6}", token)
    me = await accounts.client.get("/_matrix/client/v3/account/whoami", token=token)
    assert me.json == {"user_id": "@alice:test", "device_id": "PHONE", "is_guest": False}


async def test_the_first_request_is_remembered(accounts: Accounts) -> None:
    wish = {"username": "Alice", "password": "secret", "device_id": "PHONE"}
    first = await accounts.client.post(REGISTER, wish)
    auth = {**DUMMY, "session": first.json["session"]}

    answer = await accounts.client.post(REGISTER, {"auth": auth})

    assert (answer.json["user_id"], answer.json["device_id"]) == ("@alice:test", "PHONE")
    login = {"type": "m.login.password", "user": "alice", "password": "secret"}
    assert (await accounts.client.post("/_matrix/client/v3/login", login)).status == 200


async def test_a_repeated_registration_logs_its_owner_in_again(accounts: Accounts) -> None:
    wish: dict[str, Any] = {"username": "alice", "password": "secret"}
    first = await accounts.client.post(REGISTER, wish)
    wish["auth"] = {**DUMMY, "session": first.json["session"]}

    answer = await accounts.client.post(REGISTER, wish)
    again = await accounts.client.post(REGISTER, wish)
    guessed = await accounts.client.post(REGISTER, {**wish, "password": "guess"})

    assert answer.json["user_id"] == again.json["user_id"] == "@alice:test"
    assert answer.json["access_token"] != again.json["access_token"]
    assert (guessed.status, guessed.errcode) == (403, "M_FORBIDDEN")


async def test_a_guest_becomes_a_user_under_their_own_name(accounts: Accounts) -> None:
    guest = (await accounts.client.post(f"{REGISTER}?kind=guest", {})).json
    token, name = guest["access_token"], guest["user_id"][1:].split(":")[0]
    me = "/_matrix/client/v3/account/whoami"
    before = await accounts.client.get(me, token=token)
    wish = {"username": name, "password": "x", "guest_access_token": token, "auth": DUMMY}

    other = await accounts.client.post(REGISTER, {**wish, "username": "alice"})
    answer = await accounts.client.post(REGISTER, wish)
    again = await accounts.client.post(REGISTER, wish)

    assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
    assert (answer.status, answer.json["user_id"]) == (200, guest["user_id"])
    after = await accounts.client.get(me, token=token)
    assert (before.json["is_guest"], after.json["is_guest"]) == (True, False)
    assert (again.status, again.errcode) == (403, "M_FORBIDDEN")


async def test_a_session_is_not_needed_for_a_single_stage(accounts: Accounts) -> None:
    answer = await accounts.client.post(
        REGISTER, {"username": "bob", "password": "x", "auth": DUMMY, "inhibit_login": True}
    )

    assert answer.json == {"user_id": "@bob:test", "home_server": "test"}


async def test_a_name_is_made_up_for_who_gives_none(accounts: Accounts) -> None:
    answer = await accounts.client.post(REGISTER, {"password": "x", "auth": DUMMY})

    assert answer.status == 200
    assert answer.json["user_id"].endswith(":test")


async def test_two_who_want_one_name_at_once_do_not_both_get_it(accounts: Accounts) -> None:
    answers: list[Any] = []

    async def register() -> None:
        wish = {"username": "carol", "password": "x", "auth": DUMMY}
        answers.append(await accounts.client.post(REGISTER, wish))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(register)

    assert sorted(answer.status for answer in answers) == [200, 400, 400, 400]
    assert {one.errcode for one in answers if one.status == 400} == {"M_USER_IN_USE"}


@pytest.mark.parametrize(
    ("wish", "status", "errcode"),
    [
        ({"username": ""}, 400, "M_INVALID_USERNAME"),
        ({"username": "ali ce"}, 400, "M_INVALID_USERNAME"),
        ({"username": "_bridge"}, 400, "M_INVALID_USERNAME"),
        ({"username": "123"}, 400, "M_INVALID_USERNAME"),
        ({"username": "a" * 250}, 400, "M_INVALID_USERNAME"),
        ({"username": "a" * 100_000}, 400, "M_INVALID_USERNAME"),
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
async def test_bad_wishes_are_refused(
    accounts: Accounts, wish: dict[str, Any], status: int, errcode: str | None
) -> None:
    answer = await accounts.client.post(REGISTER, wish)

    assert answer.status == status
    assert errcode is None or answer.errcode == errcode


async def test_a_taken_name_is_refused_before_anything_is_proved(accounts: Accounts) -> None:
    await accounts.user("alice")

    answer = await accounts.client.post(REGISTER, {"username": "alice"})
    available = await accounts.client.get(f"{REGISTER}/available?username=alice")
    free = await accounts.client.get(f"{REGISTER}/available?username=alice2")

    assert (answer.status, answer.errcode) == (400, "M_USER_IN_USE")
    assert (available.status, available.errcode) == (400, "M_USER_IN_USE")
    assert free.json == {"available": True}


async def test_a_session_for_registration_serves_nothing_else(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="x")
    first = await accounts.client.post(REGISTER, {})
    auth = {"type": "m.login.password", "password": "x", "session": first.json["session"]}

    answer = await accounts.client.post(
        "/_matrix/client/v3/account/deactivate", {"auth": auth}, token=alice.access_token
    )

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_guests_are_numbered_and_may_do_little(accounts: Accounts) -> None:
    answer = await accounts.client.post(f"{REGISTER}?kind=guest", {})
    token = answer.json["access_token"]
    me = await accounts.client.get("/_matrix/client/v3/account/whoami", token=token)
    refused = await accounts.client.get("/_matrix/client/v3/account/3pid", token=token)
    closing = await accounts.client.post("/_matrix/client/v3/account/deactivate", {}, token=token)

    assert answer.status == 200
    assert re.fullmatch(r"@\d+:test", answer.json["user_id"])
    assert me.json["is_guest"] is True
    assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (closing.status, closing.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_of_a_guest_nothing_but_the_name_of_the_device_is_read(accounts: Accounts) -> None:
    texts = dict.fromkeys(("auth", "password", "inhibit_login", "refresh_token"), "x\0")
    lists = {key: [1] for key in ("username", "device_id", "type", "guest_access_token")}
    body = {**texts, **lists, "initial_device_display_name": "Kiosk"}

    answer = await accounts.client.post(f"{REGISTER}?kind=guest", body)
    wrong = await accounts.client.post(f"{REGISTER}?kind=guest", {"initial_device_display_name": 1})

    assert (answer.status, set(answer.json)) == (200, GUEST_KEYS)
    (device,) = await accounts.devices.all_of(answer.json["user_id"])
    assert (device.device_id, device.display_name) == (answer.json["device_id"], "Kiosk")
    assert (wrong.status, wrong.errcode) == (400, "M_BAD_JSON")


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
async def test_of_a_user_everything_must_be_of_its_type(accounts: Accounts, body: Any) -> None:
    answer = await accounts.client.post(REGISTER, body)

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


async def test_a_closed_server_takes_nobody(database: Database) -> None:
    async with open_accounts(database, registration=RegistrationSettings()) as accounts:
        answer = await accounts.client.post(REGISTER, {"username": "a", "password": "x"})
        available = await accounts.client.get(f"{REGISTER}/available?username=a")

        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert available.status == 403


async def test_a_registration_token_serves_as_often_as_allowed(database: Database) -> None:
    async with open_accounts(database, registration=WITH_TOKEN) as accounts:
        await database.write(stored.insert_registration_token, "abc", 1, None)
        validity = f"/_matrix/client/v1/register/{TOKEN}/validity?token="
        flows = await accounts.client.post(REGISTER, {})
        before = await accounts.client.get(validity + "abc")
        wrong = await accounts.client.post(REGISTER, {"auth": {"type": TOKEN, "token": "abd"}})
        # A session that has shown the token holds its use, while it has not yet registered.
        held = await accounts.client.post(REGISTER, {"auth": {"type": TOKEN, "token": "abc"}})
        second = await accounts.client.post(REGISTER, {"auth": {"type": TOKEN, "token": "abc"}})

        assert flows.json["flows"] == [{"stages": [TOKEN]}]
        assert before.json == {"valid": True}
        assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
        assert wrong.json["completed"] == []
        assert held.errcode == "M_MISSING_PARAM"
        assert (second.status, second.errcode) == (401, "M_FORBIDDEN")
        assert (await accounts.client.get(validity + "abc")).json == {"valid": False}


@pytest.mark.parametrize("name", [{"username": "alice"}, {}])
async def test_requests_of_one_session_that_come_at_once_make_one_account(
    accounts: Accounts, name: dict[str, Any]
) -> None:
    wish: dict[str, Any] = {**name, "password": "secret"}
    session = (await accounts.client.post(REGISTER, wish)).json["session"]
    wish["auth"] = {"type": "m.login.dummy", "session": session}
    made = []

    async def register() -> None:
        made.append(await accounts.client.post(REGISTER, wish))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(register)

    assert [one.status for one in made] == [200] * 6
    assert len({one.json["user_id"] for one in made}) == 1


async def test_a_use_of_a_token_is_held_by_one_session(database: Database) -> None:
    async with open_accounts(database, registration=WITH_TOKEN) as accounts:
        await database.write(stored.insert_registration_token, "abc", 1, None)
        asked = [(await accounts.client.post(REGISTER, {})).json["session"] for _ in range(12)]
        holders: list[str] = []

        async def show(session: str) -> None:
            auth = {"type": TOKEN, "token": "abc", "session": session}
            answer = await accounts.client.post(REGISTER, {"auth": auth})
            if answer.errcode == "M_MISSING_PARAM":  # of the password: all is proved
                holders.append(session)

        async with trio.open_nursery() as nursery:
            for session in asked:
                nursery.start_soon(show, session)

        assert len(holders) == 1


async def test_a_token_that_nobody_needs_can_be_looked_up_all_the_same(
    accounts: Accounts,
) -> None:
    await accounts.database.write(stored.insert_registration_token, "abc", None, None)
    validity = f"/_matrix/client/v1/register/{TOKEN}/validity?token="

    known = await accounts.client.get(validity + "abc")
    unknown = await accounts.client.get(validity + "abd")

    assert (known.json, unknown.json) == ({"valid": True}, {"valid": False})


async def test_a_registration_token_is_used_up(database: Database) -> None:
    async with open_accounts(database, registration=WITH_TOKEN) as accounts:
        await database.write(stored.insert_registration_token, "abc", 1, None)
        session = (await accounts.client.post(REGISTER, {})).json["session"]
        auth = {"type": TOKEN, "token": "abc", "session": session}
        wish = {"username": "alice", "password": "x", "auth": auth}

        answer = await accounts.client.post(REGISTER, wish)
        again = await accounts.client.post(
            REGISTER,
            {"username": "bob", "password": "x", "auth": {"type": TOKEN, "token": "abc"}},
        )

        assert answer.status == 200
        assert (again.status, again.errcode) == (401, "M_FORBIDDEN")


async def test_registrations_are_limited_per_address_and_stages_are_not(
    database: Database,
) -> None:
    limits = RateLimitSettings(rc_registration=Rate(0.01, 1))
    async with open_accounts(database, rate_limits=limits) as accounts:
        for _ in range(3):
            assert (await accounts.client.post(REGISTER, {})).status == 401
        wish = {"password": "x", "auth": DUMMY}
        first = await accounts.client.post(REGISTER, wish)
        second = await accounts.client.post(REGISTER, wish)

        assert first.status == 200
        assert (second.status, second.errcode) == (429, "M_LIMIT_EXCEEDED")
        assert second.json["retry_after_ms"] > 0
