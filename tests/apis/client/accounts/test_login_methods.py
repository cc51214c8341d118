"""Further ways to log in: JSON web tokens, another session; and passwords as they are kept."""

from typing import Any

import attrs
import jwt
import pytest

from hs.settings.sections.accounts import PasswordPolicy, PasswordSettings
from hs.settings.sections.login import ExistingSessionSettings, JwtSettings
from hs.settings.settings import Settings
from hs.storage.accounts import users as account_rows
from hs.storage.database import Database
from tests.support.accounts import DEFAULTS, open_accounts

LOGIN = "/_matrix/client/v3/login"
GET_TOKEN = "/_matrix/client/v1/login/get_token"
KEY = "a secret that is long enough for HS256"
LATER = 4_000_000_000
SIGNED: Settings = attrs.evolve(
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
GOOD = {"sub": "Alice", "name": "Alice A.", "iss": "us", "aud": "matrix", "exp": LATER}


def wish(claims: dict[str, Any], key: str = KEY, algorithm: str = "HS256") -> dict[str, Any]:
    kept = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode(kept, key, algorithm=algorithm)
    return {"type": "org.matrix.login.jwt", "token": token}


async def test_a_web_token_makes_its_user_and_logs_them_in(database: Database) -> None:
    async with open_accounts(database, settings=SIGNED) as accounts:
        flows = (await accounts.client.get(LOGIN)).json["flows"]
        first = await accounts.client.post(LOGIN, wish(GOOD))
        again = await accounts.client.post(LOGIN, wish(GOOD))
        name = await accounts.client.get("/_matrix/client/v3/profile/@alice:test/displayname")

        assert {"type": "org.matrix.login.jwt"} in flows
        assert first.json["user_id"] == again.json["user_id"] == "@alice:test"
        assert name.json == {"displayname": "Alice A."}


@pytest.mark.parametrize(
    ("change", "key", "algorithm"),
    [
        ({"exp": 1_000}, KEY, "HS256"),
        ({"nbf": LATER}, KEY, "HS256"),
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
async def test_bad_web_tokens_are_refused(
    database: Database, change: dict[str, Any], key: str, algorithm: str
) -> None:
    async with open_accounts(database, settings=SIGNED) as accounts:
        answer = await accounts.client.post(LOGIN, wish({**GOOD, **change}, key, algorithm))

        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"token": 1}, 400, "M_BAD_JSON"),
        ({"token": "x"}, 403, "M_FORBIDDEN"),
    ],
)
async def test_what_is_no_web_token_is_refused(
    database: Database, body: dict[str, Any], status: int, errcode: str
) -> None:
    async with open_accounts(database, settings=SIGNED) as accounts:
        answer = await accounts.client.post(LOGIN, {"type": "org.matrix.login.jwt", **body})

        assert (answer.status, answer.errcode) == (status, errcode)


async def test_web_tokens_are_not_taken_unless_wanted(database: Database) -> None:
    async with open_accounts(database) as accounts:
        answer = await accounts.client.post(LOGIN, wish(GOOD))

        assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")


async def test_a_closed_account_is_not_opened_by_a_web_token(database: Database) -> None:
    async with open_accounts(database, settings=SIGNED) as accounts:
        alice = (await accounts.client.post(LOGIN, wish(GOOD))).json["user_id"]
        await accounts.lifecycle.deactivate(alice, erase=False)

        answer = await accounts.client.post(LOGIN, wish(GOOD))

        assert (answer.status, answer.errcode) == (403, "M_USER_DEACTIVATED")


async def test_a_login_token_is_given_without_asking_where_that_is_set(
    database: Database,
) -> None:
    existing = ExistingSessionSettings(enabled=True, require_ui_auth=False, token_timeout=1000)
    settings = attrs.evolve(DEFAULTS, existing_session=existing)
    async with open_accounts(database, settings=settings) as accounts:
        alice = await accounts.user("alice")
        made = await accounts.client.post(GET_TOKEN, {}, token=alice.access_token)
        told = await accounts.client.get(
            "/_matrix/client/v3/capabilities", token=alice.access_token
        )
        flows = (await accounts.client.get(LOGIN)).json["flows"]
        accounts.clock.advance(1000)
        late = await accounts.client.post(
            LOGIN, {"type": "m.login.token", "token": made.json["login_token"]}
        )

        assert made.json["expires_in_ms"] == 1000
        assert told.json["capabilities"]["m.get_login_token"] == {"enabled": True}
        assert {"type": "m.login.token", "get_login_token": True} in flows
        assert (late.status, late.errcode) == (403, "M_FORBIDDEN")


async def test_passwords_are_hashed_anew_as_their_owners_log_in(database: Database) -> None:
    async with open_accounts(database) as accounts:
        await accounts.user("alice", password="secret")
    newer = PasswordSettings(scheme="argon2id", pepper="")
    async with open_accounts(database, passwords=newer) as accounts:
        await accounts.log_in("alice", "secret")
        user = await database.read(account_rows.find_user, "@alice:test")
        wrong = await accounts.client.post(
            LOGIN, {"type": "m.login.password", "user": "alice", "password": "wrong"}
        )
        nobody = await accounts.client.post(
            LOGIN, {"type": "m.login.password", "user": "nobody", "password": "wrong"}
        )
        await accounts.log_in("alice", "secret")

        assert user is not None
        assert (user.password_hash or "").startswith("$argon2id$")
        assert (wrong.status, nobody.status) == (403, 403)
    async with open_accounts(database) as accounts:
        await accounts.log_in("alice", "secret")
        user = await database.read(account_rows.find_user, "@alice:test")

        assert user is not None
        assert (user.password_hash or "").startswith("$2b$04$")


async def test_passwords_kept_elsewhere_are_not_checked_here(database: Database) -> None:
    async with open_accounts(
        database, passwords=PasswordSettings(localdb_enabled=False)
    ) as accounts:
        alice = await accounts.user("alice", password="secret")
        body = {"type": "m.login.password", "user": "alice", "password": "secret"}

        refused = await accounts.client.post(LOGIN, body)
        told = await accounts.client.get(
            "/_matrix/client/v3/capabilities", token=alice.access_token
        )

        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
        assert told.json["capabilities"]["m.change_password"] == {"enabled": False}


@pytest.mark.parametrize("version", ["r0", "v3", "unstable"])
async def test_clients_learn_what_passwords_must_contain(database: Database, version: str) -> None:
    policy = PasswordPolicy(enabled=True, minimum_length=15, require_digit=True)
    async with open_accounts(database, passwords=PasswordSettings(policy=policy)) as accounts:
        told = await accounts.client.get(f"/_matrix/client/{version}/password_policy")

        assert told.json == {
            "m.minimum_length": 15,
            "m.require_digit": True,
            "m.require_symbol": False,
            "m.require_lowercase": False,
            "m.require_uppercase": False,
        }


async def test_without_a_policy_there_is_nothing_to_learn(database: Database) -> None:
    async with open_accounts(database) as accounts:
        told = await accounts.client.get("/_matrix/client/v3/password_policy")

        assert told.json == {}


async def test_an_account_is_opened_again(database: Database) -> None:
    async with open_accounts(database) as accounts:
        alice = await accounts.user("alice", password="secret")
        await accounts.lifecycle.deactivate(alice.user_id, erase=True)
        body = {"type": "m.login.password", "user": "alice", "password": "secret"}
        closed = await accounts.client.post(LOGIN, body)

        opened = await accounts.lifecycle.reactivate(alice.user_id, "another")
        twice = await accounts.lifecycle.reactivate(alice.user_id, "third")

        assert (closed.status, closed.errcode) == (403, "M_USER_DEACTIVATED")
        assert (opened, twice) == (True, False)
        await accounts.log_in("alice", "another")


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v1/auth_metadata",
        "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
        "/_matrix/client/v3/login/sso/redirect",
    ],
)
async def test_what_is_off_is_not_there(database: Database, path: str) -> None:
    async with open_accounts(database) as accounts:
        answer = await accounts.client.get(path)

        assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")
