"""Login by JSON web token and by login token; password hashing and policy."""

from typing import Any

import attrs
import jwt
import pytest

from hs.settings.sections.accounts import PasswordPolicy, PasswordSettings
from hs.settings.sections.appservices import AppserviceSettings
from hs.settings.sections.login import ExistingSessionSettings, JwtSettings
from hs.settings.sections.retention import BlockingSettings
from hs.settings.settings import Settings
from hs.storage.accounts import users as account_rows
from hs.storage.database import Database
from tests.support.accounts import DEFAULTS, open_accounts
from tests.support.appservices import registration

LOGIN = "/_matrix/client/v3/login"
REGISTER = "/_matrix/client/v3/register"
WHOAMI = "/_matrix/client/v3/account/whoami"
GET_TOKEN = "/_matrix/client/v1/login/get_token"
KEY = "a secret that is long enough for HS256"
FAR_FUTURE = 4_000_000_000
JWT_SETTINGS: Settings = attrs.evolve(
    DEFAULTS,
    jwt=JwtSettings(
        enabled=True,
        secret=KEY,
        algorithm="HS256",
        display_name_claim="name",
        issuer="us",
        audiences=("matrix", "other"),
    ),
)
VALID_CLAIMS = {"sub": "Alice", "name": "Alice A.", "iss": "us", "aud": "matrix", "exp": FAR_FUTURE}


def login_body(claims: dict[str, Any], key: str = KEY, algorithm: str = "HS256") -> dict[str, Any]:
    payload = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode(payload, key, algorithm=algorithm)
    return {"type": "org.matrix.login.jwt", "token": token}


async def test_first_jwt_login_registers_the_user(database: Database) -> None:
    async with open_accounts(database, JWT_SETTINGS) as accounts:
        flows = (await accounts.client.get(LOGIN)).json["flows"]
        first = await accounts.client.post(LOGIN, login_body(VALID_CLAIMS))
        again = await accounts.client.post(LOGIN, login_body(VALID_CLAIMS))
        name = await accounts.client.get("/_matrix/client/v3/profile/@alice:test/displayname")

        assert {"type": "org.matrix.login.jwt"} in flows
        assert first.json["user_id"] == again.json["user_id"] == "@alice:test"
        assert name.json == {"displayname": "Alice A."}


@pytest.mark.parametrize(
    ("change", "key", "algorithm"),
    [
        ({"exp": 1_000}, KEY, "HS256"),
        ({"nbf": FAR_FUTURE}, KEY, "HS256"),
        ({"iss": "them"}, KEY, "HS256"),
        ({"iss": None}, KEY, "HS256"),
        ({"aud": "nobody"}, KEY, "HS256"),
        ({"aud": None}, KEY, "HS256"),
        ({"sub": None}, KEY, "HS256"),
        ({"sub": "not a name"}, KEY, "HS256"),
        ({}, "another secret of the same length", "HS256"),
        ({}, KEY * 2, "HS512"),
        ({}, "", "none"),
    ],
)
async def test_invalid_jwt_is_rejected(
    database: Database, change: dict[str, Any], key: str, algorithm: str
) -> None:
    async with open_accounts(database, JWT_SETTINGS) as accounts:
        response = await accounts.client.post(
            LOGIN, login_body({**VALID_CLAIMS, **change}, key, algorithm)
        )

        assert (response.status, response.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"token": 1}, 400, "M_BAD_JSON"),
        ({"token": "x"}, 403, "M_FORBIDDEN"),
    ],
)
async def test_malformed_jwt_is_rejected(
    database: Database, body: dict[str, Any], status: int, errcode: str
) -> None:
    async with open_accounts(database, JWT_SETTINGS) as accounts:
        response = await accounts.client.post(LOGIN, {"type": "org.matrix.login.jwt", **body})

        assert (response.status, response.errcode) == (status, errcode)


async def test_jwt_login_is_disabled_by_default(database: Database) -> None:
    async with open_accounts(database) as accounts:
        response = await accounts.client.post(LOGIN, login_body(VALID_CLAIMS))

        assert (response.status, response.errcode) == (400, "M_UNKNOWN")


async def test_jwt_login_does_not_reactivate_an_account(database: Database) -> None:
    async with open_accounts(database, JWT_SETTINGS) as accounts:
        alice = (await accounts.client.post(LOGIN, login_body(VALID_CLAIMS))).json["user_id"]
        await accounts.lifecycle.deactivate(alice, erase=False)

        response = await accounts.client.post(LOGIN, login_body(VALID_CLAIMS))

        assert (response.status, response.errcode) == (403, "M_USER_DEACTIVATED")


async def test_login_token_without_uia_if_configured(
    database: Database,
) -> None:
    existing = ExistingSessionSettings(enabled=True, require_ui_auth=False, token_timeout=1000)
    async with open_accounts(database, existing_session=existing) as accounts:
        alice = await accounts.user("alice")
        generated = await accounts.client.post(GET_TOKEN, {}, token=alice.access_token)
        response = await accounts.client.get(
            "/_matrix/client/v3/capabilities", token=alice.access_token
        )
        flows = (await accounts.client.get(LOGIN)).json["flows"]
        accounts.clock.advance(1000)
        expired = await accounts.client.post(
            LOGIN, {"type": "m.login.token", "token": generated.json["login_token"]}
        )

        assert generated.json["expires_in_ms"] == 1000
        assert response.json["capabilities"]["m.get_login_token"] == {"enabled": True}
        assert {"type": "m.login.token", "get_login_token": True} in flows
        assert (expired.status, expired.errcode) == (403, "M_FORBIDDEN")


async def test_login_rehashes_passwords_with_outdated_settings(database: Database) -> None:
    async with open_accounts(database) as accounts:
        await accounts.user("alice", password="secret")
    passwords = PasswordSettings(scheme="argon2id", pepper="")
    async with open_accounts(database, passwords=passwords) as accounts:
        await accounts.log_in("alice", "secret")
        user = await database.read(account_rows.find_user, "@alice:test")
        wrong = await accounts.client.post(
            LOGIN, {"type": "m.login.password", "user": "alice", "password": "wrong"}
        )
        unknown_user = await accounts.client.post(
            LOGIN, {"type": "m.login.password", "user": "nobody", "password": "wrong"}
        )
        await accounts.log_in("alice", "secret")

        assert user is not None
        assert (user.password_hash or "").startswith("$argon2id$")
        assert (wrong.status, unknown_user.status) == (403, 403)
    async with open_accounts(database) as accounts:
        await accounts.log_in("alice", "secret")
        user = await database.read(account_rows.find_user, "@alice:test")

        assert user is not None
        assert (user.password_hash or "").startswith("$2b$04$")


async def test_password_login_is_disabled_without_a_local_database(database: Database) -> None:
    async with open_accounts(
        database, passwords=PasswordSettings(localdb_enabled=False)
    ) as accounts:
        alice = await accounts.user("alice", password="secret")
        body = {"type": "m.login.password", "user": "alice", "password": "secret"}

        flows = await accounts.client.get(LOGIN)
        login = await accounts.client.post(LOGIN, body)
        response = await accounts.client.get(
            "/_matrix/client/v3/capabilities", token=alice.access_token
        )

        assert "m.login.password" not in str(flows.json)
        assert (login.status, login.errcode) == (403, "M_FORBIDDEN")
        assert response.json["capabilities"]["m.change_password"] == {"enabled": False}


async def test_disabled_server_admits_administrators_only(database: Database) -> None:
    async with open_accounts(database) as accounts:
        alice = await accounts.user("alice", password="secret")
        await accounts.user("root", password="secret", is_admin=True)
    blocking = BlockingSettings(hs_disabled=True, admin_contact="mailto:a@b")
    bodies = [
        {"type": "m.login.password", "user": name, "password": "secret"}
        for name in ("alice", "root")
    ]
    async with open_accounts(database, blocking=blocking) as accounts:
        logins = [await accounts.client.post(LOGIN, body) for body in bodies]
        whoami = await accounts.client.get(WHOAMI, token=alice.access_token)
        registered = await accounts.client.post(REGISTER, {"username": "new", "password": "secret"})
        guest = await accounts.client.post(f"{REGISTER}?kind=guest", {})

        assert [login.status for login in logins] == [403, 200]
        for refused in (logins[0], whoami, registered, guest):
            assert (refused.status, refused.errcode) == (403, "M_RESOURCE_LIMIT_EXCEEDED")
            assert refused.json["limit_type"] == "hs_disabled"
            assert refused.json["admin_contact"] == "mailto:a@b"


async def test_disabled_server_creates_no_account_by_jwt_or_for_application_services(
    database: Database,
) -> None:
    blocking = BlockingSettings(hs_disabled=True)
    services = AppserviceSettings(registrations=(registration(),))
    ghost = {"type": "m.login.application_service", "username": "_irc_ghost"}
    async with open_accounts(
        database, JWT_SETTINGS, blocking=blocking, appservices=services
    ) as accounts:
        login = await accounts.client.post(LOGIN, login_body(VALID_CLAIMS))
        registered = await accounts.client.post(REGISTER, ghost, token="as-irc")

    assert [login.errcode, registered.errcode] == ["M_RESOURCE_LIMIT_EXCEEDED"] * 2
    async with open_accounts(database) as accounts:
        for name in ("alice", "_irc_ghost"):
            await accounts.user(name)


@pytest.mark.parametrize("version", ["r0", "v3", "unstable"])
async def test_password_policy_is_published(database: Database, version: str) -> None:
    policy = PasswordPolicy(enabled=True, minimum_length=15, require_digit=True)
    async with open_accounts(database, passwords=PasswordSettings(policy=policy)) as accounts:
        response = await accounts.client.get(f"/_matrix/client/{version}/password_policy")

        assert response.json == {
            "m.minimum_length": 15,
            "m.require_digit": True,
            "m.require_symbol": False,
            "m.require_lowercase": False,
            "m.require_uppercase": False,
        }


async def test_password_policy_is_empty_by_default(database: Database) -> None:
    async with open_accounts(database) as accounts:
        response = await accounts.client.get("/_matrix/client/v3/password_policy")

        assert response.json == {}


async def test_deactivated_account_can_be_reactivated(database: Database) -> None:
    async with open_accounts(database) as accounts:
        alice = await accounts.user("alice", password="secret")
        await accounts.lifecycle.deactivate(alice.user_id, erase=True)
        body = {"type": "m.login.password", "user": "alice", "password": "secret"}
        deactivated = await accounts.client.post(LOGIN, body)

        is_reactivated = await accounts.lifecycle.reactivate(alice.user_id, "another")
        is_reactivated_again = await accounts.lifecycle.reactivate(alice.user_id, "third")

        assert (deactivated.status, deactivated.errcode) == (403, "M_USER_DEACTIVATED")
        assert (is_reactivated, is_reactivated_again) == (True, False)
        await accounts.log_in("alice", "another")


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v1/auth_metadata",
        "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
        "/_matrix/client/v3/login/sso/redirect",
    ],
)
async def test_disabled_endpoints_are_unrecognized(database: Database, path: str) -> None:
    async with open_accounts(database) as accounts:
        response = await accounts.client.get(path)

        assert (response.status, response.errcode) == (404, "M_UNRECOGNIZED")
