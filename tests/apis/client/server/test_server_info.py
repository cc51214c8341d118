"""What the server tells of itself, and the small endpoints."""

import base64
import hashlib
import hmac
from typing import Any

import attrs
import pytest

from hs import __version__
from hs.apis.client.server.unstable_features import features_of
from hs.cli.register import NewUser, mac_of
from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.features import TurnSettings
from hs.settings.sections.proposals import ProposalSettings
from hs.settings.sections.rooms import RoomSettings
from hs.settings.sections.server import ServerSettings
from hs.settings.sections.support import SupportContact, SupportSettings
from hs.storage.database import Database
from tests.support.accounts import DEFAULTS, Accounts, open_accounts

ADMIN = "/_synapse/admin/v1/register"
TURN = "/_matrix/client/v3/voip/turnServer"


async def test_versions_are_told_to_anybody(accounts: Accounts) -> None:
    answer = await accounts.client.get("/_matrix/client/versions")

    assert {"r0.6.1", "v1.1", "v1.11"} <= set(answer.json["versions"])
    assert answer.json["unstable_features"] == features_of(ProposalSettings(), RoomSettings())


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
async def test_clients_know_which_new_rooms_are_encrypted(
    database: Database, rooms: dict[str, Any], forced: list[str]
) -> None:
    settings = attrs.evolve(DEFAULTS, rooms=RoomSettings(**rooms))
    async with open_accounts(database, settings=settings) as accounts:
        told = (await accounts.client.get("/_matrix/client/versions")).json["unstable_features"]

        prefix = "io.element.e2ee_forced."
        flags = {name.removeprefix(prefix): told[name] for name in told if name.startswith(prefix)}
        assert [name for name in flags if flags[name]] == forced
        assert len(flags) == 3


@pytest.mark.parametrize("forgets", [False, True])
async def test_clients_know_whether_rooms_are_forgotten_as_they_are_left(
    database: Database, forgets: bool
) -> None:
    settings = attrs.evolve(DEFAULTS, rooms=RoomSettings(forget_rooms_on_leave=forgets))
    async with open_accounts(database, settings=settings) as accounts:
        alice = (await accounts.user("alice")).access_token

        answer = await accounts.client.get("/_matrix/client/v3/capabilities", token=alice)

        told = answer.json["capabilities"]["m.forget_forced_upon_leave"]
        assert told == {"enabled": forgets}


async def test_capabilities_name_the_room_versions(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    answer = await accounts.client.get("/_matrix/client/v3/capabilities", token=alice.access_token)

    told = answer.json["capabilities"]
    assert told["m.room_versions"]["default"] == "11"
    assert told["m.room_versions"]["available"]["12"] == "stable"
    assert told["m.change_password"] == {"enabled": True}
    assert (await accounts.client.get("/_matrix/client/v3/capabilities")).status == 401


async def test_the_server_is_found_by_its_name(database: Database) -> None:
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
    settings = attrs.evolve(DEFAULTS, server=server)
    async with open_accounts(database, settings=settings) as accounts:
        client = await accounts.client.get("/.well-known/matrix/client")
        server_answer = await accounts.client.get("/.well-known/matrix/server")
        support = await accounts.client.get("/.well-known/matrix/support")

        assert client.json == {
            "m.homeserver": {"base_url": "https://matrix.test"},
            "m.identity_server": {"base_url": "https://id.test"},
            "org.example": {"a": 1},
        }
        assert server_answer.json == {"m.server": "test:443"}
        assert support.json == {
            "contacts": [
                {"role": "m.role.admin", "matrix_id": "@root:test"},
                {"role": "m.role.security", "email_address": "security@test"},
            ],
            "support_page": "https://test/help",
        }


@pytest.mark.parametrize("what", ["client", "server", "support"])
async def test_nothing_is_told_that_is_not_known(accounts: Accounts, what: str) -> None:
    answer = await accounts.client.get(f"/.well-known/matrix/{what}")

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


async def test_turn_credentials_are_signed_with_the_shared_secret(database: Database) -> None:
    turn = TurnSettings(turn_uris=("turn:turn.test",), turn_shared_secret="shared")
    async with open_accounts(database, settings=attrs.evolve(DEFAULTS, turn=turn)) as accounts:
        alice = await accounts.user("alice")
        answer = (await accounts.client.get(TURN, token=alice.access_token)).json

        until = accounts.clock.now_ms() // 1000 + 3600
        assert answer["username"] == f"{until}:@alice:test"
        mac = hmac.new(b"shared", answer["username"].encode(), hashlib.sha1).digest()
        assert answer["password"] == base64.b64encode(mac).decode()
        assert (answer["ttl"], answer["uris"]) == (3600, ["turn:turn.test"])


async def test_a_server_without_turn_gives_nothing(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    answer = await accounts.client.get(TURN, token=alice.access_token)

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


async def test_openid_tokens_name_their_user_for_an_hour(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    bob = await accounts.user("bob")
    path = "/_matrix/client/v3/user/@alice:test/openid/request_token"

    answer = await accounts.client.post(path, {}, token=alice.access_token)
    others = await accounts.client.post(path, {}, token=bob.access_token)

    assert answer.json["token_type"] == "Bearer"
    assert answer.json["matrix_server_name"] == "test"
    userinfo = "/_matrix/federation/v1/openid/userinfo"
    shown = await accounts.client.get(userinfo, query={"access_token": answer.json["access_token"]})
    wrong = await accounts.client.get(userinfo, query={"access_token": "an/invalid/token"})
    none = await accounts.client.get(userinfo)
    assert shown.json == {"sub": "@alice:test"}
    assert (wrong.status, wrong.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (none.status, none.errcode) == (401, "M_MISSING_TOKEN")
    assert answer.json["expires_in"] == 3600
    assert await accounts.openid.user_of(answer.json["access_token"]) == "@alice:test"
    assert (others.status, others.errcode) == (403, "M_FORBIDDEN")
    accounts.clock.advance(3_600_000)
    with pytest.raises(Exception, match="M_UNKNOWN_TOKEN"):
        await accounts.openid.user_of(answer.json["access_token"])


async def test_anybody_is_told_what_serves_here(accounts: Accounts) -> None:
    answer = await accounts.client.get("/_matrix/federation/v1/version")

    assert answer.json == {"server": {"name": "hs", "version": __version__}}


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
async def test_there_are_no_third_party_networks(
    accounts: Accounts, path: str, status: int
) -> None:
    alice = await accounts.user("alice")

    answer = await accounts.client.get(
        f"/_matrix/client/v3/thirdparty/{path}", token=alice.access_token
    )

    assert answer.status == status
    assert answer.json == {} if status == 200 else answer.errcode == "M_NOT_FOUND"


WITH_SECRET = RegistrationSettings(registration_shared_secret="s3cret", bcrypt_rounds=4)


async def signed(accounts: Accounts, secret: str = "s3cret", **more: Any) -> dict[str, Any]:
    nonce = (await accounts.client.get(ADMIN)).json["nonce"]
    user = NewUser(username="Root", password="pass", is_admin=True)
    return {
        "nonce": nonce,
        "username": "Root",
        "password": "pass",
        "admin": True,
        "mac": mac_of(secret, nonce, user),
        **more,
    }


async def test_who_knows_the_secret_makes_administrators(database: Database) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        body = await signed(accounts, displayname="The boss")
        answer = await accounts.client.post(ADMIN, body)
        again = await accounts.client.post(ADMIN, body)
        taken = await accounts.client.post(ADMIN, await signed(accounts))

        assert answer.json["user_id"] == "@root:test"
        token = answer.json["access_token"]
        requester = await accounts.authenticator.requester_for(token, "", "")
        assert requester.is_admin
        profile = await accounts.client.get("/_matrix/client/v3/profile/@root:test")
        assert profile.json == {"displayname": "The boss"}
        assert (again.status, again.errcode) == (400, "M_UNKNOWN")
        assert (taken.status, taken.errcode) == (400, "M_USER_IN_USE")


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
async def test_bad_proofs_are_refused(
    database: Database, change: dict[str, Any], status: int, errcode: str | None
) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        answer = await accounts.client.post(ADMIN, await signed(accounts, **change))

        assert answer.status == status
        assert errcode is None or answer.errcode == errcode


async def test_a_nonce_serves_for_a_minute(database: Database) -> None:
    async with open_accounts(database, registration=WITH_SECRET) as accounts:
        body = await signed(accounts)
        accounts.clock.advance(60_000)

        assert (await accounts.client.post(ADMIN, body)).errcode == "M_UNKNOWN"


async def test_without_a_secret_there_are_no_nonces(accounts: Accounts) -> None:
    answer = await accounts.client.get(ADMIN)

    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")
