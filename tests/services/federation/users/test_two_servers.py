"""Keys of users between two servers, as their clients see them."""

from hs.core.ids import ServerName, UserID
from tests.support.devices import Process, one_time_keys, plain_keys
from tests.support.federation import ScriptedPeer, open_servers

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, BEN = UserID("@ann:near.example"), UserID("@ben:far.example")


async def test_client_queries_and_claims_keys_of_another_server() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        near_devices, far_devices = (Process(each.world, each.web()) for each in (near, far))
        hers = await near_devices.device(ANN, "HERS")
        his = await far_devices.device(BEN, "HIS", "Ben's phone")
        await far_devices.upload(
            his, device_keys=plain_keys(BEN, "HIS"), one_time_keys=one_time_keys(1)
        )

        queried = await near_devices.query(hers, BEN)
        claimed = [await near_devices.claim(hers, BEN, "HIS") for _ in range(2)]
        far.network.down.add(FAR)
        failed = await near_devices.query(hers, BEN)

    assert queried["device_keys"] == {BEN: {"HIS": {**plain_keys(BEN, "HIS"), "unsigned": {}}}}
    assert queried["failures"] == {}
    assert claimed == [["signed_curve25519:0001"], []]
    assert failed["device_keys"] == {}
    assert failed["failures"].keys() == {FAR}


async def test_claimed_keys_of_other_users_are_left_out() -> None:
    async with open_servers(NEAR) as (near,):
        peer = ScriptedPeer(FAR, near.network)
        keys = {BEN: {"HIS": {"a:1": "k"}, "OTHER": {"a:2": "k"}}, ANN: {"HERS": {"a:3": "k"}}}
        peer.responses["POST /_matrix/federation/v1/user/keys/claim"] = (
            200,
            {"one_time_keys": keys},
        )
        devices = Process(near.world, near.web())
        token = await devices.device(ANN, "HERS")
        claim = {"one_time_keys": {BEN: {"HIS": "a"}}}
        response = await devices.client.post("/_matrix/client/v3/keys/claim", claim, token=token)

    assert response.json["one_time_keys"] == {BEN: {"HIS": {"a:1": "k"}}}
