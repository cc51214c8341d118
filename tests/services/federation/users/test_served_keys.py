"""Devices and keys of our users as other servers see them."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.errors import NotFound, RemoteFault
from hs.core.ids import ServerName, UserID
from hs.storage.database import Database
from tests.support.composition import SETTINGS
from tests.support.devices import V3, KeyPair, Process, one_time_keys, plain_keys
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, open_server

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, BEN = UserID("@ann:near.example"), UserID("@ben:far.example")
DEVICES = f"/_matrix/federation/v1/user/devices/{ANN}"
QUERY, CLAIM = (f"/_matrix/federation/v1/user/keys/{name}" for name in ("query", "claim"))


@attrs.frozen
class Served:
    """A server with a device of a user, and another server that asks."""

    near: FederatedServer
    peer: ScriptedPeer
    devices: Process
    token: str

    async def post(self, path: str, content: JsonObject) -> JsonObject:
        """Send a signed request with a body."""
        return await self.peer.client.request(NEAR, "POST", path, canonical_json(content))


@pytest.fixture(params=[False, True])
def shows_names(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value


@pytest.fixture
async def served(database: Database, shows_names: bool) -> AsyncIterator[Served]:
    network = PeerNetwork()
    federation = attrs.evolve(
        SETTINGS.federation, allow_device_name_lookup_over_federation=shows_names
    )
    settings = attrs.evolve(SETTINGS, federation=federation)
    async with open_server(NEAR, network, database, settings=settings) as near:
        devices = Process(near.world, near.web())
        token = await devices.device(ANN, "PHONE", "Ann's phone")
        await devices.upload(token, device_keys=plain_keys(ANN, "PHONE"))
        await devices.device(ANN, "KEYLESS")
        yield Served(near, ScriptedPeer(FAR, network), devices, token)


async def upload_cross_signing(served: Served) -> tuple[KeyPair, KeyPair]:
    master, user_signing = KeyPair.of_user(ANN, 1), KeyPair.of_user(ANN, 2)
    content = {
        "master_key": master.usable_as("master"),
        "user_signing_key": master.signing(user_signing.usable_as("user_signing")),
    }
    response = await served.devices.client.post(
        f"{V3}/keys/device_signing/upload", content, token=served.token
    )
    assert response.status == 200, response.body
    return master, user_signing


async def test_device_list_has_keys_names_and_position(served: Served, shows_names: bool) -> None:
    master, _ = await upload_cross_signing(served)

    first = await served.peer.client.get(NEAR, DEVICES)
    await served.devices.upload(
        await served.devices.device(ANN, "TABLET"), device_keys=plain_keys(ANN, "TABLET")
    )
    second = await served.peer.client.get(NEAR, DEVICES)

    unsigned: Any = {"device_display_name": "Ann's phone"} if shows_names else {}
    keys = {**plain_keys(ANN, "PHONE"), "unsigned": unsigned}
    assert first["user_id"] == ANN
    assert first["devices"] == [{"device_id": "PHONE", "keys": keys, **unsigned}]
    assert first["master_key"] == master.usable_as("master")
    assert first.keys() == {"user_id", "stream_id", "devices", "master_key"}
    assert {device["device_id"] for device in second["devices"]} == {"PHONE", "TABLET"}
    assert second["stream_id"] > first["stream_id"] > 0


async def test_query_shows_public_keys_of_our_users_only(served: Served) -> None:
    master, _ = await upload_cross_signing(served)

    response = await served.post(QUERY, {"device_keys": {ANN: [], BEN: [], "ann": []}})

    assert response["device_keys"].keys() == {ANN}
    assert response["device_keys"][ANN].keys() == {"PHONE"}
    assert response["master_keys"] == {ANN: master.usable_as("master")}
    assert "user_signing_keys" not in response


async def test_one_time_key_is_claimed_once(served: Served) -> None:
    await served.devices.upload(served.token, one_time_keys=one_time_keys(1))
    claim = {"one_time_keys": {ANN: {"PHONE": "signed_curve25519"}, BEN: {"X": "a"}}}

    first = await served.post(CLAIM, claim)
    second = await served.post(CLAIM, claim)

    assert first == {"one_time_keys": {ANN: {"PHONE": one_time_keys(1)}}}
    assert second == {"one_time_keys": {}}


async def test_devices_of_users_of_other_servers_are_not_found(served: Served) -> None:
    with pytest.raises(RemoteFault) as caught:
        await served.peer.client.get(NEAR, DEVICES.replace(ANN, BEN))

    assert isinstance(caught.value.error, NotFound)
