"""Requests between two servers: keys are fetched, signatures are checked."""

from typing import Any

import attrs
import pytest

from hs.core.errors import NotFound, RemoteFault
from hs.core.ids import RoomAlias, ServerName, UserID
from hs.core.signing.requests import authorization_header, parse_authorization
from hs.services.federation_client.client import uri_of
from tests.support.federation import ScriptedPeer, open_servers
from tests.support.peers import signer_of

PATH = "/_matrix/federation/v1/query/directory"
NEAR, FAR = ServerName("near.example"), ServerName("far.example")


@pytest.mark.parametrize("path", ["/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:old"])
async def test_servers_publish_their_keys(path: str) -> None:
    async with open_servers(NEAR) as (near,):
        response = await near.web().get(path)

    assert response.status == 200
    key = signer_of(NEAR).key.verify_key
    assert response.json["server_name"] == NEAR
    assert response.json["verify_keys"] == {key.key_id: {"key": key.base64}}
    assert response.json["valid_until_ts"] > 1_700_000_000_000 + 3600_000
    assert key.key_id in response.json["signatures"][NEAR]


async def test_alias_of_another_server_is_found() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(UserID("@ann:far.example"))
        await far.process.services.aliases.aliases.add(
            UserID("@ann:far.example"), RoomAlias("#tea:far.example"), room_id
        )

        resolver = near.process.services.aliases.resolver
        found = await resolver.resolve(RoomAlias("#tea:far.example"))
        with pytest.raises(NotFound):
            await resolver.resolve(RoomAlias("#coffee:far.example"))

    assert found == (room_id, [FAR])


async def test_key_is_fetched_once() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        for _ in range(2):
            with pytest.raises(RemoteFault) as caught:
                await near.client.get(FAR, PATH, {"room_alias": "#none:far.example"})
            assert caught.value.error is not None
            assert caught.value.error.errcode == "M_NOT_FOUND"

        assert far.network.uris(NEAR) == ["/_matrix/key/v2/server"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: None, "Missing Authorization"),
        (lambda header: header.replace("X-Matrix", "Bearer"), "scheme"),
        (lambda header: header.replace("far.example", "three.example"), "another server"),
        (lambda header: header.replace('key="ed25519:key"', 'key="ed25519:other"'), "No valid key"),
        (lambda header: header.replace('sig="', 'sig="AAAA'), "not valid"),
        (lambda header: header.replace("near.example", "far.example"), "to itself"),
        (lambda header: header + ',sig="', "Malformed"),
    ],
)
async def test_requests_with_wrong_signatures_are_refused(change: Any, message: str) -> None:
    async with open_servers(FAR) as (far,):
        peer = ScriptedPeer(NEAR, far.network)
        uri = uri_of(PATH, {"room_alias": "#none:far.example"})
        header = change(authorization_header(peer.signer, FAR, "GET", uri, None))
        headers = {} if header is None else {"authorization": header}
        response = await far.web().get(uri, headers=headers)

    assert (response.status, response.errcode) == (401, "M_UNAUTHORIZED")
    assert message in response.json["error"]


async def test_origin_must_be_a_server_name() -> None:
    async with open_servers(FAR) as (far,):
        peer = ScriptedPeer(ServerName("localhost:http"), far.network)
        uri = uri_of(PATH, {"room_alias": "#none:far.example"})
        header = authorization_header(peer.signer, FAR, "GET", uri, None)
        response = await far.web().get(uri, headers={"authorization": header})

    assert (response.status, response.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"pdus":[],"edus":[]}', 200),
        (b'{"edus":[],"pdus":[]}', 200),
        (b' { "edus" : [ ], "pdus": [ ] } ', 200),
        (b'{"edus":[],"pdus":[],"x":1}', 401),
    ],
)
async def test_signature_covers_the_canonical_json_of_the_body(body: bytes, status: int) -> None:
    uri = "/_matrix/federation/v1/send/1"
    async with open_servers(FAR) as (far,):
        peer = ScriptedPeer(NEAR, far.network)
        header = authorization_header(peer.signer, FAR, "PUT", uri, b'{"edus":[],"pdus":[]}')
        response = await far.web().put(uri, body=body, headers={"authorization": header})

    assert response.status == status


async def test_signature_covers_the_query() -> None:
    async with open_servers(FAR) as (far,):
        peer = ScriptedPeer(NEAR, far.network)
        uri = uri_of(PATH, {"room_alias": "#none:far.example"})
        header = authorization_header(peer.signer, FAR, "GET", uri, None)
        response = await far.web().get(uri + "&a=b", headers={"authorization": header})

    assert response.status == 401


def test_authorization_headers_are_parsed_leniently() -> None:
    text = 'X-Matrix  ORIGIN=near.example:8448 , key="ed25519:a\\"b" ,sig=aGk='
    (signature,) = parse_authorization([text])
    assert attrs.astuple(signature) == ("near.example:8448", None, 'ed25519:a"b', "aGk=")
