"""Inviting people by their address, over HTTP, with an identity server that listens."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hs.core.ids import RoomID
from hs.lib.aio import Bridge
from hs.lib.limiter import Rate, RateLimiter
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.storage.database import Database
from tests.support.identity_server import (
    TOKEN,
    IdentityServer,
    open_identity_server,
    trusting_client,
)
from tests.support.room_actions import SIGNER, Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sites import make_certificate
from tests.support.web import Answer

V3 = "/_matrix/client/v3"
ON_BIND = "/_matrix/federation/v1/3pid/onbind"
OFFER = "m.room.third_party_invite"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def there(certificate: Path) -> AsyncIterator[IdentityServer]:
    async with open_identity_server(certificate) as opened:
        yield opened


@pytest.fixture
async def acts(
    database: Database, bridge: Bridge, certificate: Path, there: IdentityServer
) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened, trusting_client(bridge, certificate) as client:
        servers = IdentityServers(database, client, SIGNER)
        yield attrs.evolve(opened, offers=attrs.evolve(opened.offers, servers=servers))


def body_for(there: IdentityServer, address: str = "Bob@x.test") -> dict[str, str]:
    return {
        "id_server": there.name,
        "id_access_token": TOKEN,
        "medium": "email",
        "address": address,
    }


async def invite(acts: Actions, room_id: str, body: Any, token: str = "alice") -> Answer:
    return await acts.client().post(f"{V3}/rooms/{room_id}/invite", body, token=token)


async def membership(acts: Actions, room_id: RoomID, user_id: str) -> Any:
    return (await acts.state(room_id, "m.room.member", user_id)).get("membership")


async def bound(acts: Actions, user_id: str, room_id: str, signed: Any) -> Answer:
    invites = [{"medium": "email", "address": "b", "room_id": room_id, "signed": signed}]
    return await acts.client().put(ON_BIND, {"mxid": user_id, "invites": invites})


def verdict(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.json.get("errcode")


async def test_a_known_address_is_an_invite_of_its_user(
    acts: Actions, there: IdentityServer
) -> None:
    there.known["bob@x.test"] = BOB
    room_id = await acts.world.create_room(ALICE)

    answer = await invite(acts, room_id, {**body_for(there), "reason": "come"})

    assert (answer.status, answer.json) == (200, {})
    content = await acts.state(room_id, "m.room.member", BOB)
    assert (content["membership"], content["reason"]) == ("invite", "come")
    assert there.waiting == []


async def test_an_unknown_address_is_offered_an_invite(
    acts: Actions, there: IdentityServer
) -> None:
    acts.profiles.known[ALICE] = {"displayname": "Alice"}
    made = await acts.client().post(f"{V3}/createRoom", {"name": "Talk"}, token="alice")
    room_id = RoomID(made.json["room_id"])

    answer = await invite(acts, room_id, body_for(there))

    assert answer.status == 200
    assert there.waiting == [
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
    offer = await acts.state(room_id, OFFER, "invite-token")
    key = {
        "public_key": there.key.verify_key.base64,
        "key_validity_url": f"https://{there.name}/_matrix/identity/v2/pubkey/isvalid",
    }
    assert offer == {"display_name": "b...@x", **key, "public_keys": [key]}


async def test_who_proves_the_address_is_invited(acts: Actions, there: IdentityServer) -> None:
    room_id = await acts.world.create_room(ALICE, join_rule="invite")
    await invite(acts, room_id, body_for(there))

    answer = await bound(acts, BOB, room_id, there.signed(BOB))
    again = await bound(acts, BOB, room_id, there.signed(BOB))

    assert answer.status == again.status == 200
    content = await acts.state(room_id, "m.room.member", BOB)
    assert content["membership"] == "invite"
    assert content["third_party_invite"]["display_name"] == "b...@x"
    joined = await acts.client().post(f"{V3}/rooms/{room_id}/join", {}, token="bob")
    assert joined.status == 200
    await bound(acts, BOB, room_id, there.signed(BOB))
    assert await membership(acts, room_id, BOB) == "join"


async def test_proofs_that_are_none_invite_nobody(acts: Actions, there: IdentityServer) -> None:
    room_id = await acts.world.create_room(ALICE, join_rule="invite")
    await invite(acts, room_id, body_for(there))
    good = there.signed(BOB)

    for signed in (
        {**good, "signatures": {}},
        {**good, "token": "other"},
        there.signed(CAROL),
        {**there.signed(CAROL), "mxid": BOB},
        None,
        {},
        "text",
    ):
        assert (await bound(acts, BOB, room_id, signed)).status in (400, 403)
    await bound(acts, BOB, "!unknown:test", good)
    await bound(acts, BOB, "no room", good)
    await bound(acts, "@bob:elsewhere.test", room_id, there.signed("@bob:elsewhere.test"))
    there.is_key_valid = False
    await bound(acts, BOB, room_id, good)

    assert await membership(acts, room_id, BOB) is None


async def test_the_banned_stay_banned(acts: Actions, there: IdentityServer) -> None:
    room_id = await acts.world.create_room(ALICE)
    await invite(acts, room_id, body_for(there))
    await acts.client().post(f"{V3}/rooms/{room_id}/ban", {"user_id": BOB}, token="alice")

    await bound(acts, BOB, room_id, there.signed(BOB))

    assert await membership(acts, room_id, BOB) == "ban"


async def test_nobody_is_mailed_by_who_may_not_invite(acts: Actions, there: IdentityServer) -> None:
    levels = {"invite": 50}
    made = {"preset": "public_chat", "power_level_content_override": levels}
    room_id = (await acts.client().post(f"{V3}/createRoom", made, token="alice")).json["room_id"]
    await acts.client().post(f"{V3}/rooms/{room_id}/join", {}, token="carol")

    weak = await invite(acts, room_id, body_for(there), "carol")
    outside = await invite(acts, room_id, body_for(there), "bob")

    assert verdict(weak) == verdict(outside) == (403, "M_FORBIDDEN")
    assert there.waiting == []


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
async def test_requests_that_cannot_be(
    acts: Actions, there: IdentityServer, change: Any, expected: tuple[int, str]
) -> None:
    room_id = await acts.world.create_room(ALICE)

    answer = await invite(acts, room_id, {**body_for(there), **change})

    assert verdict(answer) == expected


async def test_invites_by_address_are_limited_per_user(
    acts: Actions, there: IdentityServer
) -> None:
    limited = attrs.evolve(acts.offers, limiter=RateLimiter(Rate(0.001, 1)))
    acts = attrs.evolve(acts, offers=limited)
    room_id = await acts.world.create_room(ALICE)

    first = await invite(acts, room_id, body_for(there))
    second = await invite(acts, room_id, body_for(there))

    assert (first.status, verdict(second)) == (200, (429, "M_LIMIT_EXCEEDED"))


async def test_looking_up_can_be_switched_off(acts: Actions, there: IdentityServer) -> None:
    acts = attrs.evolve(acts, offers=attrs.evolve(acts.offers, looks_up=False))
    room_id = await acts.world.create_room(ALICE)

    answer = await invite(acts, room_id, body_for(there))

    assert verdict(answer) == (403, "M_FORBIDDEN")
    assert there.site.asked == []


async def test_a_new_room_invites_by_address(acts: Actions, there: IdentityServer) -> None:
    there.known["bob@x.test"] = BOB
    body = {
        "preset": "private_chat",
        "is_direct": True,
        "invite_3pid": [body_for(there), body_for(there, "new@x.test")],
    }

    made = await acts.client().post(f"{V3}/createRoom", body, token="alice")

    room_id = RoomID(made.json["room_id"])
    content = await acts.state(room_id, "m.room.member", BOB)
    assert (content["membership"], content["is_direct"]) == ("invite", True)
    assert [one["address"] for one in there.waiting] == ["new@x.test"]
    assert await acts.state(room_id, OFFER, "invite-token")


async def test_no_room_is_made_when_the_identity_server_is_away(
    acts: Actions, there: IdentityServer
) -> None:
    away = {**body_for(there), "id_server": "localhost:1"}

    made = await acts.client().post(f"{V3}/createRoom", {"invite_3pid": [away]}, token="alice")

    assert verdict(made) == (502, "M_UNKNOWN")
    assert acts.world.seen == []
