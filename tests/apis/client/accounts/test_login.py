"""Login, refreshing and logout over HTTP."""

import re
from typing import Any

import attrs
import pytest

from hs.core.ids import UserID
from hs.core.streams import DeviceListRow
from hs.settings.sections.accounts import SessionSettings
from hs.settings.sections.appservices import AppserviceSettings
from hs.settings.sections.login import ExistingSessionSettings
from hs.settings.sections.rate_limits import LoginRates, Rate, RateLimitSettings
from hs.storage.database import Database
from hs.storage.devices import device_keys
from hs.storage.devices.device_keys import CrossSigningRecord
from tests.support.accounts import DEFAULTS, UNLIMITED, Accounts, open_accounts
from tests.support.appservices import registration
from tests.support.composition import PLENTY
from tests.support.sql.counting import CountingDatabase, QueryCount

LOGIN = "/_matrix/client/v3/login"
REFRESH = "/_matrix/client/v3/refresh"
WHOAMI = "/_matrix/client/v3/account/whoami"


def by_password(user: Any, password: Any = "secret", **more: Any) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user}
    return {"type": "m.login.password", "identifier": identifier, "password": password, **more}


async def test_login_accepts_all_forms_of_the_user_name(accounts: Accounts) -> None:
    await accounts.user("alice", password="secret")

    for name in ("alice", "@alice:test", "@Alice:test"):
        response = await accounts.client.post(LOGIN, by_password(name))
        assert response.status == 200
        assert response.json["user_id"] == "@alice:test"
    old = {"type": "m.login.password", "user": "alice", "password": "secret"}
    assert (await accounts.client.post(LOGIN, old)).status == 200


async def test_password_login_is_offered(accounts: Accounts) -> None:
    response = await accounts.client.get(LOGIN)

    assert {"type": "m.login.password"} in response.json["flows"]
    assert {"type": "m.login.token"} not in response.json["flows"]


async def test_login_response_has_discovery_information(database: Database) -> None:
    server = attrs.evolve(DEFAULTS.server, public_baseurl="https://matrix.test/")
    async with open_accounts(database, server=server) as accounts:
        await accounts.user("alice", password="secret")

        well_known = (await accounts.log_in("alice", "secret"))["well_known"]

        assert well_known == (await accounts.client.get("/.well-known/matrix/client")).json


async def test_application_service_logins_are_not_limited_by_address(database: Database) -> None:
    services = AppserviceSettings(registrations=(registration(),))
    rates = attrs.evolve(
        UNLIMITED,
        rc_login=LoginRates(address=Rate(0.001, 2), account=PLENTY, failed_attempts=PLENTY),
    )
    async with open_accounts(database, appservices=services, rate_limits=rates) as accounts:
        await accounts.user("alice")
        await accounts.user("_irc_ghost", appservice_id="irc")
        body = {"type": "m.login.application_service", "user": "_irc_ghost"}

        responses = [await accounts.client.post(LOGIN, body, token="as-irc") for _ in range(4)]
        foreign = await accounts.client.post(LOGIN, {**body, "user": "alice"}, token="as-irc")
        absent = await accounts.client.post(LOGIN, {**body, "user": "_irc_x"}, token="as-irc")
        responses_to_unknown_token = [
            await accounts.client.post(LOGIN, body, token="x") for _ in range(3)
        ]

        assert [response.status for response in responses] == [200] * 4
        assert responses[0].json["user_id"] == "@_irc_ghost:test"
        assert (foreign.status, foreign.errcode) == (400, "M_EXCLUSIVE")
        assert (absent.status, absent.errcode) == (403, "M_FORBIDDEN")
        assert [response.status for response in responses_to_unknown_token] == [401, 401, 429]


async def test_passwords_are_compared_in_unicode_normal_form(accounts: Accounts) -> None:
    await accounts.user("alice", password="ﬁne")

    assert (await accounts.client.post(LOGIN, by_password("alice", "fine"))).status == 200


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        (by_password("alice", "wrong"), 403, "M_FORBIDDEN"),
        (by_password("nobody"), 403, "M_FORBIDDEN"),
        (by_password("@alice:elsewhere"), 403, "M_FORBIDDEN"),
        (by_password("@alice"), 403, "M_FORBIDDEN"),
        (by_password("a" * 1000), 403, "M_FORBIDDEN"),
        (by_password("alice", "x" * 5000), 403, "M_FORBIDDEN"),
        (by_password(1), 400, "M_BAD_JSON"),
        (by_password("alice", 1), 400, "M_BAD_JSON"),
        (by_password("al\0ice"), 400, None),
        (by_password("alice", device_id=1), 400, "M_BAD_JSON"),
        (by_password("alice", initial_device_display_name=1), 400, "M_BAD_JSON"),
        (by_password("alice", initial_device_display_name="n" * 200), 400, "M_INVALID_PARAM"),
        ({"type": "m.login.password", "user": "alice"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "secret"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x", "identifier": {}}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x", "identifier": 1}, 400, "M_BAD_JSON"),
        (
            {"type": "m.login.password", "password": "x", "identifier": {"type": "x"}},
            400,
            "M_UNKNOWN",
        ),
        (
            {"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.phone"}},
            400,
            "M_MISSING_PARAM",
        ),
        ({"type": "m.login.token"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.token", "token": "syl_x"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.magic"}, 400, "M_UNKNOWN"),
        ({"type": 1}, 400, "M_BAD_JSON"),
        ({}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.application_service", "user": "x"}, 401, "M_MISSING_TOKEN"),
    ],
)
async def test_invalid_login_is_rejected(
    accounts: Accounts, body: Any, status: int, errcode: str | None
) -> None:
    await accounts.user("alice", password="secret")

    response = await accounts.client.post(LOGIN, body)

    assert response.status == status
    assert errcode is None or response.errcode == errcode


async def test_login_with_a_known_device_revokes_its_old_token(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret", device_id="PHONE")
    assert (await accounts.client.get(WHOAMI, token=alice.access_token)).status == 200

    second_login = await accounts.log_in("alice", "secret", device_id="PHONE")

    old = await accounts.client.get(WHOAMI, token=alice.access_token)
    assert (old.status, old.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (await accounts.client.get(WHOAMI, token=second_login["access_token"])).status == 200


async def test_device_id_must_not_equal_a_cross_signing_key_of_its_user(accounts: Accounts) -> None:
    await accounts.user("alice", password="secret")
    await accounts.user("bob", password="secret")
    key = CrossSigningRecord("@alice:test", "master", "cHVibGlj", b"{}")
    await accounts.database.write(device_keys.put_cross_signing_key, key)

    own_key = await accounts.client.post(LOGIN, by_password("alice", device_id="cHVibGlj"))
    key_of_other_user = await accounts.client.post(LOGIN, by_password("bob", device_id="cHVibGlj"))

    assert (own_key.status, own_key.errcode) == (403, "M_FORBIDDEN")
    assert key_of_other_user.status == 200
    assert [
        device.device_id for device in await accounts.services.devices.all_of(UserID("@alice:test"))
    ] == ["ALICE"]


async def test_logout_revokes_the_token_and_deletes_the_device(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    other_token = (await accounts.log_in("alice", "secret"))["access_token"]
    await accounts.database.write(device_keys.put_device_keys, alice.user_id, "ALICE", b"{}")
    accounts.device_changes.clear()

    response = await accounts.client.post("/_matrix/client/v3/logout", {}, token=alice.access_token)

    assert response.json == {}
    assert (await accounts.client.get(WHOAMI, token=alice.access_token)).status == 401
    assert (await accounts.client.get(WHOAMI, token=other_token)).status == 200
    assert accounts.device_changes == [DeviceListRow(alice.user_id, "ALICE")]
    assert await accounts.database.read(device_keys.list_device_keys, [alice.user_id]) == []


async def test_logout_all_revokes_all_tokens(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    other_token = (await accounts.log_in("alice", "secret"))["access_token"]

    await accounts.client.post("/_matrix/client/v3/logout/all", token=other_token)

    for token in (other_token, alice.access_token):
        assert (await accounts.client.get(WHOAMI, token=token)).status == 401


async def test_failed_logins_are_rate_limited(database: Database) -> None:
    rates = LoginRates(address=PLENTY, account=PLENTY, failed_attempts=Rate(0.001, 2))
    async with open_accounts(database, rate_limits=RateLimitSettings(rc_login=rates)) as accounts:
        await accounts.user("alice", password="secret")
        for _ in range(2):
            wrong = await accounts.client.post(LOGIN, by_password("alice", "wrong"))
            assert wrong.status == 403

        for name in ("alice", "ALICE"):
            right = await accounts.client.post(LOGIN, by_password(name))
            assert (right.status, right.errcode) == (429, "M_LIMIT_EXCEEDED")


async def test_deactivated_account_cannot_log_in(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    await accounts.lifecycle.deactivate(alice.user_id, erase=False)

    response = await accounts.client.post(LOGIN, by_password("alice"))

    assert (response.status, response.errcode) == (403, "M_USER_DEACTIVATED")


async def test_expired_token_is_a_soft_logout(database: Database) -> None:
    sessions = SessionSettings(nonrefreshable_access_token_lifetime=60_000)
    async with open_accounts(database, sessions=sessions) as accounts:
        alice = await accounts.user("alice")
        assert alice.expires_in_ms == 60_000
        assert (await accounts.client.get(WHOAMI, token=alice.access_token)).status == 200

        accounts.clock.advance(60_000)
        response = await accounts.client.get(WHOAMI, token=alice.access_token)

        assert (response.status, response.errcode) == (401, "M_UNKNOWN_TOKEN")
        assert response.json["soft_logout"] is True


async def test_old_tokens_are_valid_until_the_new_ones_are_used(accounts: Accounts) -> None:
    await accounts.user("alice", password="secret")
    first = await accounts.log_in("alice", "secret", refresh_token=True)
    assert first["expires_in_ms"] == 300_000

    second = (await accounts.client.post(REFRESH, {"refresh_token": first["refresh_token"]})).json

    assert (await accounts.client.get(WHOAMI, token=first["access_token"])).status == 200
    # The response may have been lost, so the refresh token can be used again. Its earlier tokens
    # are revoked.
    third = (await accounts.client.post(REFRESH, {"refresh_token": first["refresh_token"]})).json
    assert (await accounts.client.get(WHOAMI, token=second["access_token"])).status == 401
    assert (await accounts.client.get(WHOAMI, token=first["access_token"])).status == 200
    # Once the new access token is used, the old tokens are revoked.
    assert (await accounts.client.get(WHOAMI, token=third["access_token"])).status == 200
    assert (await accounts.client.get(WHOAMI, token=first["access_token"])).status == 401
    reused = await accounts.client.post(REFRESH, {"refresh_token": first["refresh_token"]})
    assert (reused.status, reused.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert set(third) == {"access_token", "refresh_token", "expires_in_ms"}


async def test_using_a_refresh_token_revokes_the_earlier_ones(accounts: Accounts) -> None:
    await accounts.user("alice", password="secret")
    first = await accounts.log_in("alice", "secret", refresh_token=True)
    second = (await accounts.client.post(REFRESH, {"refresh_token": first["refresh_token"]})).json

    third = (await accounts.client.post(REFRESH, {"refresh_token": second["refresh_token"]})).json

    assert (await accounts.client.get(WHOAMI, token=first["access_token"])).status == 401
    assert (await accounts.client.get(WHOAMI, token=second["access_token"])).status == 200
    assert (await accounts.client.get(WHOAMI, token=third["access_token"])).status == 200
    assert (await accounts.client.get(WHOAMI, token=second["access_token"])).status == 401


async def test_session_lifetime_is_not_extended_by_refreshing(database: Database) -> None:
    sessions = SessionSettings(session_lifetime=400_000)
    async with open_accounts(database, sessions=sessions) as accounts:
        await accounts.user("alice", password="secret")
        first = await accounts.log_in("alice", "secret", refresh_token=True)
        accounts.clock.advance(200_000)
        second = await accounts.client.post(REFRESH, {"refresh_token": first["refresh_token"]})
        assert second.json["expires_in_ms"] == 200_000

        accounts.clock.advance(200_000)
        third = await accounts.client.post(REFRESH, {"refresh_token": second.json["refresh_token"]})

        assert (third.status, third.errcode) == (401, "M_UNKNOWN_TOKEN")
        assert third.json["soft_logout"] is True


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"refresh_token": 1}, 400, "M_BAD_JSON"),
        ({"refresh_token": "syr_none"}, 401, "M_UNKNOWN_TOKEN"),
    ],
)
async def test_invalid_refresh_is_rejected(
    accounts: Accounts, body: Any, status: int, errcode: str
) -> None:
    response = await accounts.client.post(REFRESH, body)

    assert (response.status, response.errcode) == (status, errcode)


async def test_login_token_is_valid_once_and_expires(database: Database) -> None:
    existing = ExistingSessionSettings(enabled=True)
    async with open_accounts(database, existing_session=existing) as accounts:
        alice = await accounts.user("alice", password="secret")
        auth = {"type": "m.login.password", "user": "alice", "password": "secret"}
        path = "/_matrix/client/v1/login/get_token"
        challenge = await accounts.client.post(path, {}, token=alice.access_token)
        generated = await accounts.client.post(path, {"auth": auth}, token=alice.access_token)
        body = {"type": "m.login.token", "token": generated.json["login_token"]}

        first = await accounts.client.post(LOGIN, body)
        second = await accounts.client.post(LOGIN, body)

        assert challenge.status == 401
        assert first.json["user_id"] == "@alice:test"
        assert (second.status, second.errcode) == (403, "M_FORBIDDEN")
        second_token = await accounts.client.post(path, {"auth": auth}, token=alice.access_token)
        accounts.clock.advance(second_token.json["expires_in_ms"])
        body["token"] = second_token.json["login_token"]
        assert (await accounts.client.post(LOGIN, body)).status == 403


async def test_login_tokens_are_disabled_by_default(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    response = await accounts.client.post(
        "/_matrix/client/v1/login/get_token", {}, token=alice.access_token
    )

    assert (response.status, response.errcode) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize("suffix", ["", "/", "?device_id=PHONE"])
async def test_login_fallback_page(accounts: Accounts, suffix: str) -> None:
    page = await accounts.client.get(f"/_matrix/static/client/login{suffix}")

    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"window.matrixLogin.onLogin(" in page.body
    nonce = re.search(rb'<script nonce="([^"]+)">', page.body)
    assert nonce is not None
    policy = page.headers["content-security-policy"]
    assert f"script-src 'nonce-{nonce[1].decode()}'; connect-src 'self'" in policy


async def test_unknown_refresh_token_costs_no_write(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_accounts(counting) as accounts:
        count.statements.clear()

        response = await accounts.client.post(REFRESH, {"refresh_token": "unknown"})

        assert (response.status, response.errcode) == (401, "M_UNKNOWN_TOKEN")
        assert not [text for text in count.statements if "refresh_tokens" in text]
