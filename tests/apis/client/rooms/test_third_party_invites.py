"""Third-party invites over HTTP, with a fake identity server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hs.core.ids import RoomID
from hs.lib.aio import Bridge
from hs.lib.http_client import HttpClient
from hs.settings.sections.identity import LookupSettings
from hs.settings.sections.rate_limits import Rate
from hs.storage.database import Database
from tests.support.composition import NO_LIMITS, SETTINGS
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.servers.identity_server import (
    TOKEN,
    IdentityServer,
    open_identity_server,
    trusting_client,
)
from tests.support.servers.sites import make_certificate
from tests.support.web import WebResponse

V3 = "/_matrix/client/v3"
ON_BIND = "/_matrix/federation/v1/3pid/onbind"
THIRD_PARTY_INVITE = "m.room.third_party_invite"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def identity_server(certificate: Path) -> AsyncIterator[IdentityServer]:
    async with open_identity_server(certificate) as identity_server:
        yield identity_server


@pytest.fixture
async def http(bridge: Bridge, certificate: Path) -> AsyncIterator[HttpClient]:
    async with trusting_client(bridge, certificate) as client:
        yield client


@pytest.fixture
async def actions(database: Database, http: HttpClient) -> AsyncIterator[Actions]:
    async with open_actions(database, http=http) as actions:
        yield actions


def body_for(identity_server: IdentityServer, address: str = "Bob@x.test") -> dict[str, str]:
    return {
        "id_server": identity_server.name,
        "id_access_token": TOKEN,
        "medium": "email",
        "address": address,
    }


async def invite(actions: Actions, room_id: str, body: Any, token: str = "alice") -> WebResponse:
    return await actions.client().post(f"{V3}/rooms/{room_id}/invite", body, token=token)


async def membership(actions: Actions, room_id: RoomID, user_id: str) -> Any:
    return (await actions.state(room_id, "m.room.member", user_id)).get("membership")


async def on_bind(actions: Actions, user_id: str, room_id: str, signed: Any) -> WebResponse:
    invites = [{"medium": "email", "address": "b", "room_id": room_id, "signed": signed}]
    return await actions.client().put(ON_BIND, {"mxid": user_id, "invites": invites})


def outcome(response: WebResponse) -> tuple[int, str | None]:
    return response.status, response.json.get("errcode")


async def test_bound_address_is_invited_as_its_user(
    actions: Actions, identity_server: IdentityServer
) -> None:
    identity_server.known["bob@x.test"] = BOB
    room_id = await actions.world.create_room(ALICE)

    response = await invite(actions, room_id, {**body_for(identity_server), "reason": "come"})

    assert (response.status, response.json) == (200, {})
    content = await actions.state(room_id, "m.room.member", BOB)
    assert (content["membership"], content["reason"]) == ("invite", "come")
    assert identity_server.waiting == []


async def test_unbound_address_gets_a_third_party_invite(
    actions: Actions, identity_server: IdentityServer
) -> None:
    await actions.set_profile(ALICE, displayname="Alice")
    created = await actions.client().post(f"{V3}/createRoom", {"name": "Talk"}, token="alice")
    room_id = RoomID(created.json["room_id"])

    response = await invite(actions, room_id, body_for(identity_server))

    assert response.status == 200
    assert identity_server.waiting == [
        {
            "medium": "email",
            "address": "bob@x.test",
            "room_id": room_id,
            "sender": ALICE,
            "sender_display_name": "Alice",
            "room_name": "Talk",
            "room_join_rules": "invite",
        }
    ]
    invite_event = await actions.state(room_id, THIRD_PARTY_INVITE, "invite-token")
    key = {
        "public_key": identity_server.key.verify_key.base64,
        "key_validity_url": f"https://{identity_server.name}/_matrix/identity/v2/pubkey/isvalid",
    }
    assert invite_event == {"display_name": "b...@x", **key, "public_keys": [key]}


async def test_user_who_binds_the_address_is_invited(
    actions: Actions, identity_server: IdentityServer
) -> None:
    room_id = await actions.world.create_room(ALICE, join_rule="invite")
    await invite(actions, room_id, body_for(identity_server))

    response = await on_bind(actions, BOB, room_id, identity_server.signed(BOB))
    repeated = await on_bind(actions, BOB, room_id, identity_server.signed(BOB))

    assert response.status == repeated.status == 200
    content = await actions.state(room_id, "m.room.member", BOB)
    assert content["membership"] == "invite"
    assert content["third_party_invite"]["display_name"] == "b...@x"
    joined = await actions.client().post(f"{V3}/rooms/{room_id}/join", {}, token="bob")
    assert joined.status == 200
    await on_bind(actions, BOB, room_id, identity_server.signed(BOB))
    assert await membership(actions, room_id, BOB) == "join"


async def test_invalid_proof_invites_nobody(
    actions: Actions, identity_server: IdentityServer
) -> None:
    room_id = await actions.world.create_room(ALICE, join_rule="invite")
    await invite(actions, room_id, body_for(identity_server))
    proof = identity_server.signed(BOB)

    for signed in (
        {**proof, "signatures": {}},
        {**proof, "token": "other"},
        identity_server.signed(CAROL),
        {**identity_server.signed(CAROL), "mxid": BOB},
        None,
        {},
        "text",
    ):
        assert (await on_bind(actions, BOB, room_id, signed)).status in (400, 403)
    await on_bind(actions, BOB, "!unknown:test", proof)
    await on_bind(actions, BOB, "no room", proof)
    await on_bind(
        actions, "@bob:elsewhere.test", room_id, identity_server.signed("@bob:elsewhere.test")
    )
    identity_server.is_key_valid = False
    await on_bind(actions, BOB, room_id, proof)

    assert await membership(actions, room_id, BOB) is None


async def test_banned_user_is_not_invited(
    actions: Actions, identity_server: IdentityServer
) -> None:
    room_id = await actions.world.create_room(ALICE)
    await invite(actions, room_id, body_for(identity_server))
    await actions.client().post(f"{V3}/rooms/{room_id}/ban", {"user_id": BOB}, token="alice")

    await on_bind(actions, BOB, room_id, identity_server.signed(BOB))

    assert await membership(actions, room_id, BOB) == "ban"


async def test_user_without_invite_power_sends_no_email(
    actions: Actions, identity_server: IdentityServer
) -> None:
    levels = {"invite": 50}
    body = {"preset": "public_chat", "power_level_content_override": levels}
    room_id = (await actions.client().post(f"{V3}/createRoom", body, token="alice")).json["room_id"]
    await actions.client().post(f"{V3}/rooms/{room_id}/join", {}, token="carol")

    without_power = await invite(actions, room_id, body_for(identity_server), "carol")
    not_a_member = await invite(actions, room_id, body_for(identity_server), "bob")

    assert outcome(without_power) == outcome(not_a_member) == (403, "M_FORBIDDEN")
    assert identity_server.waiting == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id_server": "no name"}, (400, "M_SERVER_NOT_TRUSTED")),
        ({"id_server": "localhost:1"}, (502, "M_UNKNOWN")),
        ({"id_access_token": "wrong"}, (403, "M_FORBIDDEN")),
        ({"id_access_token": None}, (400, "M_MISSING_PARAM")),
        ({"address": "no address"}, (400, "M_INVALID_PARAM")),
        ({"address": 5}, (400, "M_BAD_JSON")),
    ],
)
async def test_invalid_invite_is_rejected(
    actions: Actions, identity_server: IdentityServer, change: Any, expected: tuple[int, str]
) -> None:
    room_id = await actions.world.create_room(ALICE)

    response = await invite(actions, room_id, {**body_for(identity_server), **change})

    assert outcome(response) == expected


async def test_third_party_invites_are_rate_limited_per_user(
    database: Database, http: HttpClient, identity_server: IdentityServer
) -> None:
    limits = attrs.evolve(NO_LIMITS, rc_third_party_invite=Rate(0.001, 1))
    settings = attrs.evolve(SETTINGS, rate_limits=limits)
    async with open_actions(database, settings, http=http) as actions:
        room_id = await actions.world.create_room(ALICE)

        first = await invite(actions, room_id, body_for(identity_server))
        second = await invite(actions, room_id, body_for(identity_server))

    assert (first.status, outcome(second)) == (200, (429, "M_LIMIT_EXCEEDED"))


async def test_third_party_invites_can_be_disabled(
    database: Database, http: HttpClient, identity_server: IdentityServer
) -> None:
    settings = attrs.evolve(SETTINGS, lookups=LookupSettings(enable_3pid_lookup=False))
    async with open_actions(database, settings, http=http) as actions:
        room_id = await actions.world.create_room(ALICE)

        response = await invite(actions, room_id, body_for(identity_server))

    assert outcome(response) == (403, "M_FORBIDDEN")
    assert identity_server.site.requests == []


async def test_new_room_invites_by_address(
    actions: Actions, identity_server: IdentityServer
) -> None:
    identity_server.known["bob@x.test"] = BOB
    body = {
        "preset": "private_chat",
        "is_direct": True,
        "invite_3pid": [body_for(identity_server), body_for(identity_server, "new@x.test")],
    }

    created = await actions.client().post(f"{V3}/createRoom", body, token="alice")

    room_id = RoomID(created.json["room_id"])
    content = await actions.state(room_id, "m.room.member", BOB)
    assert (content["membership"], content["is_direct"]) == ("invite", True)
    assert [invite_request["address"] for invite_request in identity_server.waiting] == [
        "new@x.test"
    ]
    assert await actions.state(room_id, THIRD_PARTY_INVITE, "invite-token")


async def test_no_room_is_created_if_the_identity_server_is_unreachable(
    actions: Actions, identity_server: IdentityServer
) -> None:
    unreachable = {**body_for(identity_server), "id_server": "localhost:1"}

    created = await actions.client().post(
        f"{V3}/createRoom", {"invite_3pid": [unreachable]}, token="alice"
    )

    assert outcome(created) == (502, "M_UNKNOWN")
    assert actions.world.seen == []
