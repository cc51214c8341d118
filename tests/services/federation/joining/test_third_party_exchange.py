"""Third-party invites that users of another server claim."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.ids import RoomID, ServerName
from hs.core.requester import Requester
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import sign_json
from hs.lib.http_client import HttpResponse
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.membership.room_joins import JoinRequest
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    CLEO,
    FAR,
    NEAR,
    join,
    joins_of,
    membership_at,
    register,
)
from tests.services.federation.outbound.test_between_servers import SeenEvents
from tests.services.federation.sending import sending, wait_until
from tests.support.federation import FederatedServer, PeerNetwork, open_server
from tests.support.sql.databases import fresh_inline

IDENTITY_SERVER = Signer(ServerName("id.example"), SigningKey.from_seed("0", bytes(32)))
KEY_URL = "https://id.example/valid"


class ValidKeys:
    """An HTTP client that reaches an identity server, which declares all keys valid."""

    async def send(self, method: str, url: str, **_: object) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        assert url.startswith(KEY_URL)
        return HttpResponse(200, {"content-type": "application/json"}, b'{"valid":true}', url)


@asynccontextmanager
async def open_near_and_far() -> AsyncIterator[tuple[FederatedServer, FederatedServer]]:
    network = PeerNetwork()
    async with fresh_inline() as near_database, fresh_inline() as far_database:
        async with (
            open_server(NEAR, network, near_database, http=ValidKeys()) as near,
            open_server(FAR, network, far_database, http=ValidKeys()) as far,
        ):
            yield near, far


async def room_with_offer(far: FederatedServer) -> RoomID:
    key = {
        "public_key": IDENTITY_SERVER.key.verify_key.base64,
        "key_validity_url": KEY_URL,
    }
    content = {"display_name": "b…@x", **key, "public_keys": [key]}
    offer = Draft("m.room.third_party_invite", ANN, content, "token")
    return await far.world.create_room(ANN, join_rule="invite", state=[offer])


def claim(**changes: Any) -> JsonObject:
    return sign_json({"mxid": BEN, "token": "token", "sender": ANN, **changes}, IDENTITY_SERVER)


async def on_bind(near: FederatedServer, room_id: RoomID, signed: Mapping[str, Any]) -> int:
    invite = {"medium": "email", "address": "b", "room_id": room_id, "sender": ANN}
    body = {"mxid": BEN, "invites": [{**invite, "signed": signed}]}
    response = await near.web().put("/_matrix/federation/v1/3pid/onbind", body)
    return response.status


async def test_user_who_binds_the_address_is_invited() -> None:
    async with open_near_and_far() as (near, far):
        await register(near, BEN)
        room_id = await room_with_offer(far)

        assert await on_bind(near, room_id, claim()) == 200

        assert await membership_at(near, room_id, BEN) == "invite"
        assert await membership_at(far, room_id, BEN) == "invite"
        stored = await far.world.states.current_event(room_id, "m.room.member", BEN)
        assert stored is not None
        assert stored.event.content["third_party_invite"]["display_name"] == "b…@x"


async def test_server_in_the_room_sends_the_invite_itself() -> None:
    async with open_near_and_far() as (near, far):
        await register(near, BEN)
        room_id = await room_with_offer(far)
        await far.world.set_state(room_id, ANN, "m.room.join_rules", {"join_rule": "public"})
        await join(near, CLEO, room_id, FAR)
        seen = SeenEvents(far)

        async with sending(near):
            assert await on_bind(near, room_id, claim()) == 200

            stored = await near.world.states.current_event(room_id, "m.room.member", BEN)
            assert stored is not None
            assert (stored.event.sender, set(stored.event.pdu["signatures"])) == (ANN, {NEAR})
            await wait_until(partial(seen.has, stored.event_id))

        uris = far.network.uris(FAR)
        assert not [uri for uri in uris if "exchange_third_party_invite" in uri]
        assert await membership_at(far, room_id, BEN) == "invite"


async def test_user_joins_with_a_claim() -> None:
    async with open_near_and_far() as (near, far):
        await register(near, BEN)
        room_id = await room_with_offer(far)

        request = JoinRequest(third_party_signed=claim())
        await joins_of(near).join(Requester(BEN), room_id, request)

        assert await membership_at(far, room_id, BEN) == "join"


async def test_user_joins_room_of_both_servers_with_a_claim() -> None:
    async with open_near_and_far() as (near, far):
        await register(near, BEN)
        room_id = await room_with_offer(far)
        await far.world.set_state(room_id, ANN, "m.room.join_rules", {"join_rule": "public"})
        await join(near, CLEO, room_id, FAR)
        request = JoinRequest(third_party_signed=claim())

        await joins_of(near).join(Requester(BEN), room_id, request)

        assert await membership_at(near, room_id, BEN) == "join"


@pytest.mark.parametrize(
    "signed",
    [
        claim(token="other"),
        claim(mxid=CLEO),
        {**claim(), "signatures": {}},
        {"mxid": BEN},
    ],
)
async def test_claims_without_proof_are_refused(signed: JsonObject) -> None:
    async with open_near_and_far() as (near, far):
        await register(near, BEN)
        room_id = await room_with_offer(far)
        event = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": ANN,
            "state_key": BEN,
            "content": {
                "membership": "invite",
                "third_party_invite": {"display_name": "b", "signed": signed},
            },
        }
        uri = f"/_matrix/federation/v1/exchange_third_party_invite/{room_id}"

        response = await near.client.exchange(FAR, "PUT", uri, canonical_json(event))

        assert response.status in (400, 403)
        assert await membership_at(near, room_id, BEN) is None
