"""Server information, and other small endpoints."""

import base64
import hashlib
import hmac
from typing import Any

import pytest

from hs import __version__
from hs.apis.client.server.unstable_features import features_of
from hs.cli.register import NewUser, registration_mac
from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.features import TurnSettings
from hs.settings.sections.proposals import ProposalSettings
from hs.settings.sections.rooms import RoomSettings
from hs.settings.sections.server import ServerSettings
from hs.settings.sections.support import SupportContact, SupportSettings
from hs.storage.database import Database, Tx
from tests.support.accounts import DEFAULTS, Accounts, open_accounts

ADMIN = "/_synapse/admin/v1/register"
TURN = "/_matrix/client/v3/voip/turnServer"


async def test_versions_need_no_authentication(accounts: Accounts) -> None:
    response = await accounts.client.get("/_matrix/client/versions")

    assert {"r0.6.1", "v1.1", "v1.11"} <= set(response.json["versions"])
    assert response.json["unstable_features"] == features_of(ProposalSettings(), RoomSettings())


@pytest.mark.parametrize(
    ("rooms", "forced"),
    [
        ({}, []),
        ({"encryption_enabled_by_default_for_room_type": "invite"}, ["private", "trusted_private"]),
        (
            {"encryption_enabled_by_default_for_room_type": "all"},
            ["private", "public", "trusted_private"],
        ),
    ],
)
async def test_unstable_features_say_which_new_rooms_are_encrypted(
    database: Database, rooms: dict[str, Any], forced: list[str]
) -> None:
    async with open_accounts(database, rooms=RoomSettings(**rooms)) as accounts:
        features = (await accounts.client.get("/_matrix/client/versions")).json["unstable_features"]

        prefix = "io.element.e2ee_forced."
        flags = {
            name.removeprefix(prefix): features[name]
            for name in features
            if name.startswith(prefix)
        }
        assert [name for name in flags if flags[name]] == forced
        assert len(flags) == 3


@pytest.mark.parametrize("is_enabled", [False, True])
async def test_capability_for_forgetting_left_rooms(database: Database, is_enabled: bool) -> None:
    async with open_accounts(
        database, rooms=RoomSettings(forget_rooms_on_leave=is_enabled)
    ) as accounts:
        alice = (await accounts.user("alice")).access_token

        response = await accounts.client.get("/_matrix/client/v3/capabilities", token=alice)

        capability = response.json["capabilities"]["m.forget_forced_upon_leave"]
        assert capability == {"enabled": is_enabled}


async def test_capabilities_have_the_room_versions(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    response = await accounts.client.get(
        "/_matrix/client/v3/capabilities", token=alice.access_token
    )

    capabilities = response.json["capabilities"]
    assert capabilities["m.room_versions"]["default"] == "12"
    assert capabilities["m.room_versions"]["available"]["12"] == "stable"
    assert capabilities["m.change_password"] == {"enabled": True}
    assert (await accounts.client.get("/_matrix/client/v3/capabilities")).status == 401


async def test_well_known_files(database: Database) -> None:
    server = ServerSettings(
        server_name=DEFAULTS.server.server_name,
        public_baseurl="https://matrix.test/",
        serve_server_wellknown=True,
        extra_well_known_client_content={"org.example": {"a": 1}},
        default_identity_server="https://id.test/",
        well_known_support=SupportSettings(
            contacts=(
                SupportContact(matrix_id="@root:test"),
                SupportContact(role="m.role.security", email_address="security@test"),
                SupportContact(),
            ),
            support_page="https://test/help",
        ),
    )
    async with open_accounts(database, server=server) as accounts:
        client = await accounts.client.get("/.well-known/matrix/client")
        server_response = await accounts.client.get("/.well-known/matrix/server")
        support = await accounts.client.get("/.well-known/matrix/support")

        assert client.json == {
            "m.homeserver": {"base_url": "https://matrix.test"},
            "m.identity_server": {"base_url": "https://id.test"},
            "org.example": {"a": 1},
        }
        assert server_response.json == {"m.server": "test:443"}
        assert support.json == {
            "contacts": [
                {"role": "m.role.admin", "matrix_id": "@root:test"},
                {"role": "m.role.security", "email_address": "security@test"},
            ],
            "support_page": "https://test/help",
        }


@pytest.mark.parametrize("name", ["client", "server", "support"])
async def test_well_known_files_without_configuration_are_not_found(
    accounts: Accounts, name: str
) -> None:
    response = await accounts.client.get(f"/.well-known/matrix/{name}")

    assert (response.status, response.errcode) == (404, "M_NOT_FOUND")


async def test_turn_credentials_are_signed_with_the_shared_secret(database: Database) -> None:
    turn = TurnSettings(turn_uris=("turn:turn.test",), turn_shared_secret="shared")
    async with open_accounts(database, turn=turn) as accounts:
        alice = await accounts.user("alice")
        response = (await accounts.client.get(TURN, token=alice.access_token)).json

        expires_s = accounts.clock.now_ms() // 1000 + 3600
        assert response["username"] == f"{expires_s}:@alice:test"
        mac = hmac.new(b"shared", response["username"].encode(), hashlib.sha1).digest()
        assert response["password"] == base64.b64encode(mac).decode()
        assert (response["ttl"], response["uris"]) == (3600, ["turn:turn.test"])


async def test_turn_credentials_without_configuration_are_not_found(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    response = await accounts.client.get(TURN, token=alice.access_token)

    assert (response.status, response.errcode) == (404, "M_NOT_FOUND")


async def test_openid_token_identifies_its_user_for_an_hour(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    bob = await accounts.user("bob")
    path = "/_matrix/client/v3/user/@alice:test/openid/request_token"

    response = await accounts.client.post(path, {}, token=alice.access_token)
    of_other_user = await accounts.client.post(path, {}, token=bob.access_token)

    assert response.json["token_type"] == "Bearer"
    assert response.json["matrix_server_name"] == "test"
    userinfo_path = "/_matrix/federation/v1/openid/userinfo"
    userinfo = await accounts.client.get(
        userinfo_path, query={"access_token": response.json["access_token"]}
    )
    wrong = await accounts.client.get(userinfo_path, query={"access_token": "an/invalid/token"})
    missing = await accounts.client.get(userinfo_path)
    assert userinfo.json == {"sub": "@alice:test"}
    assert (wrong.status, wrong.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN")
    assert response.json["expires_in"] == 3600
    assert await accounts.services.openid.user_of(response.json["access_token"]) == "@alice:test"
    assert (of_other_user.status, of_other_user.errcode) == (403, "M_FORBIDDEN")
    accounts.clock.advance(3_600_000)
    with pytest.raises(Exception, match="M_UNKNOWN_TOKEN"):
        await accounts.services.openid.user_of(response.json["access_token"])


async def test_server_version_needs_no_authentication(accounts: Accounts) -> None:
    response = await accounts.client.get("/_matrix/federation/v1/version")

    assert response.json == {"server": {"name": "hs", "version": __version__}}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("protocols", 200),
        ("protocol/irc", 404),
        ("location/irc", 404),
        ("user/irc?a=b", 404),
        ("location?alias=%23a%3Atest", 404),
        ("user?userid=%40a%3Atest", 404),
    ],
)
async def test_third_party_lookups_without_application_services(
    accounts: Accounts, path: str, status: int
) -> None:
    alice = await accounts.user("alice")

    response = await accounts.client.get(
        f"/_matrix/client/v3/thirdparty/{path}", token=alice.access_token
    )

    assert response.status == status
    assert response.json == {} if status == 200 else response.errcode == "M_NOT_FOUND"


WITH_SECRET = RegistrationSettings(registration_shared_secret="s3cret", bcrypt_rounds=4)


async def signed_body(accounts: Accounts, secret: str = "s3cret", **more: Any) -> dict[str, Any]:
    nonce = (await accounts.client.get(ADMIN)).json["nonce"]
    user = NewUser(username="Root", password="pass", is_admin=True)
    return {
        "nonce": nonce,
        "username": "Root",
        "password": "pass",
        "admin": True,
        "mac": registration_mac(secret, nonce, user),
        **more,
    }


async def test_administrator_is_registered_with_the_shared_secret(database: Database) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        body = await signed_body(accounts, displayname="The boss")
        response = await accounts.client.post(ADMIN, body)
        reused_nonce = await accounts.client.post(ADMIN, body)
        name_in_use = await accounts.client.post(ADMIN, await signed_body(accounts))

        assert response.json["user_id"] == "@root:test"
        token = response.json["access_token"]
        requester = await accounts.authenticator.requester_for(token, "", "")
        assert requester.is_admin
        profile = await accounts.client.get("/_matrix/client/v3/profile/@root:test")
        assert profile.json == {"displayname": "The boss"}
        assert (reused_nonce.status, reused_nonce.errcode) == (400, "M_UNKNOWN")
        assert (name_in_use.status, name_in_use.errcode) == (400, "M_USER_IN_USE")


@pytest.mark.parametrize(
    ("change", "status", "errcode"),
    [
        ({"mac": "0" * 40}, 403, "M_FORBIDDEN"),
        ({"mac": "ü"}, 403, "M_FORBIDDEN"),
        ({"admin": False}, 403, "M_FORBIDDEN"),
        ({"user_type": "bot"}, 403, "M_FORBIDDEN"),
        ({"username": "other"}, 403, "M_FORBIDDEN"),
        ({"nonce": "guessed"}, 400, "M_UNKNOWN"),
        ({"nonce": None}, 400, "M_MISSING_PARAM"),
        ({"username": 1}, 400, "M_BAD_JSON"),
        ({"password": "a\0b"}, 400, None),
        ({"username": "u" * 1000}, 400, "M_INVALID_USERNAME"),
    ],
)
async def test_invalid_shared_secret_registration_is_rejected(
    database: Database, change: dict[str, Any], status: int, errcode: str | None
) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        response = await accounts.client.post(ADMIN, await signed_body(accounts, **change))

        assert response.status == status
        assert errcode is None or response.errcode == errcode


async def count_nonces(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM registration_nonces")
    return number


async def test_asking_for_nonces_stores_nothing(database: Database) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        nonces = {(await accounts.client.get(ADMIN)).json["nonce"] for _ in range(5)}
        await accounts.client.post(ADMIN, await signed_body(accounts, mac="0" * 40))

        assert len(nonces) == 5
        assert await database.read(count_nonces) == 0


async def test_nonce_of_another_process_is_valid_once(database: Database) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as first:
        body = await signed_body(first)
    async with open_accounts(database, registration=WITH_SECRET) as second:
        registered = await second.client.post(ADMIN, body)
    async with open_accounts(database, registration=WITH_SECRET) as third:
        reused = await third.client.post(ADMIN, body)

    assert registered.status == 200
    assert (reused.status, reused.errcode) == (400, "M_UNKNOWN")


async def test_nonce_whose_expiry_was_changed_is_rejected(database: Database) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        nonce = (await accounts.client.get(ADMIN)).json["nonce"]
        later = f"{int(nonce[:12], 16) + 3_600_000:012x}{nonce[12:]}"
        user = NewUser(username="Root", password="pass", is_admin=True)
        mac = registration_mac("s3cret", later, user)

        response = await accounts.client.post(
            ADMIN, await signed_body(accounts, nonce=later, mac=mac)
        )

        assert (response.status, response.errcode) == (400, "M_UNKNOWN")


async def test_nonce_expires_after_a_minute(database: Database) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        body = await signed_body(accounts)
        accounts.clock.advance(60_000)

        assert (await accounts.client.post(ADMIN, body)).errcode == "M_UNKNOWN"


async def test_nonce_is_rejected_without_a_shared_secret(accounts: Accounts) -> None:
    response = await accounts.client.get(ADMIN)

    assert (response.status, response.errcode) == (400, "M_UNKNOWN")
