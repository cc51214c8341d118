"""Every flag in /versions belongs to an endpoint that the server implements."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster, running_cluster

pytestmark = pytest.mark.process

CLIENT = "/_matrix/client"
UNSTABLE = f"{CLIENT}/unstable"
EVENT = "rooms/!room:hs.test/{}/$event"

# One request for each flag that belongs to an endpoint.
REQUESTS: dict[str, tuple[str, str]] = {
    "org.matrix.msc1763": ("GET", f"{UNSTABLE}/org.matrix.msc1763/retention/configuration"),
    "fi.mau.msc2659.stable": ("POST", f"{CLIENT}/v1/appservice/none/ping"),
    "org.matrix.msc2432": ("GET", f"{CLIENT}/v3/rooms/!room:hs.test/aliases"),
    "org.matrix.msc3030": ("GET", f"{CLIENT}/v1/rooms/!room:hs.test/timestamp_to_event?ts=1&dir=f"),
    "org.matrix.msc3391": (
        "DELETE",
        f"{UNSTABLE}/org.matrix.msc3391/user/@me:hs.test/account_data/x",
    ),
    "org.matrix.msc3440.stable": ("GET", f"{CLIENT}/v1/rooms/!room:hs.test/threads"),
    "org.matrix.msc3814": ("GET", f"{UNSTABLE}/org.matrix.msc3814.v1/dehydrated_device"),
    "org.matrix.msc3827.stable": ("POST", f"{CLIENT}/v3/publicRooms"),
    "org.matrix.msc3881": ("GET", f"{CLIENT}/v3/pushers"),
    "org.matrix.msc3916.stable": ("GET", f"{CLIENT}/v1/media/config"),
    "org.matrix.msc3981": ("GET", f"{CLIENT}/v1/{EVENT.format('relations')}?recurse=true"),
    "org.matrix.msc4140": ("GET", f"{UNSTABLE}/org.matrix.msc4140/delayed_events"),
    "org.matrix.msc4140.stable": ("GET", f"{CLIENT}/v1/delayed_events"),
    "org.matrix.msc4143": ("GET", f"{UNSTABLE}/org.matrix.msc4143/rtc/transports"),
    "org.matrix.msc4151": ("POST", f"{CLIENT}/v3/rooms/!room:hs.test/report"),
    "org.matrix.msc4169": ("PUT", f"{CLIENT}/v3/rooms/!room:hs.test/send/m.room.redaction/t"),
    "org.matrix.msc4306": (
        "GET",
        f"{UNSTABLE}/io.element.msc4306/{EVENT.format('thread')}/subscription",
    ),
    "org.matrix.simplified_msc3575": ("POST", f"{UNSTABLE}/org.matrix.simplified_msc3575/sync"),
    "uk.half-shot.msc2666.query_mutual_rooms": (
        "GET",
        f"{UNSTABLE}/uk.half-shot.msc2666/user/mutual_rooms?user_id=@you:hs.test",
    ),
    "uk.half-shot.msc2666.query_mutual_rooms.stable": (
        "GET",
        f"{CLIENT}/v1/mutual_rooms?user_id=@you:hs.test",
    ),
    "uk.tcpip.msc4133": ("GET", f"{UNSTABLE}/uk.tcpip.msc4133/profile/@me:hs.test/displayname"),
    "uk.timedout.msc4323": ("GET", f"{UNSTABLE}/uk.timedout.msc4323/admin/lock/@me:hs.test"),
    "uk.tcpip.msc4133.stable": ("GET", f"{CLIENT}/v3/profile/@me:hs.test/displayname"),
}
# Flags of changes to endpoints of the specification; other tests check the changes.
FLAGS_WITHOUT_ENDPOINT = {
    "org.matrix.e2e_cross_signing",
    "org.matrix.msc2285.stable",
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    "org.matrix.msc4155",
    "org.matrix.msc4222",
    "org.matrix.msc3912",
    "org.matrix.msc4293",
    "org.matrix.msc4354",
    "org.matrix.msc4380",
    "org.matrix.msc4380.stable",
    "org.matrix.msc4429",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server with all optional proposals enabled."""
    settings: dict[str, Any] = {
        "max_event_delay_duration": "1d",
        "experimental_features": {"msc4306_enabled": True},
        "matrix_rtc": {"transports": [{"type": "livekit", "livekit_service_url": "https://x"}]},
        "public_baseurl": "https://hs.test",
    }
    with running_cluster("T0", None, None, **settings) as running:
        yield running


async def test_each_flag_has_an_endpoint(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        flags = (await client.get(f"{CLIENT}/versions")).json["unstable_features"]
        account = {"username": "me", "password": "secret horse", "auth": {"type": "m.login.dummy"}}
        registered = await client.post(f"{CLIENT}/v3/register", account)
        client.token = registered.json["access_token"]

        enabled = {flag for flag, is_enabled in flags.items() if is_enabled}
        unrecognized = [
            flag
            for flag in enabled - FLAGS_WITHOUT_ENDPOINT
            if not await is_recognized(client, *REQUESTS[flag])
        ]

    assert unrecognized == []
    assert {"org.matrix.msc4140", "org.matrix.msc4143", "org.matrix.msc4306"} <= enabled


async def test_well_known_and_capabilities_announce_enabled_features(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        well_known = (await client.get("/.well-known/matrix/client")).json
        policy = await client.get("/.well-known/matrix/policy_server")
        account = {"username": "you", "password": "secret horse", "auth": {"type": "m.login.dummy"}}
        client.token = (await client.post(f"{CLIENT}/v3/register", account)).json["access_token"]
        rtc = (await client.get(f"{UNSTABLE}/org.matrix.msc4143/rtc/transports")).json
        capabilities = (await client.get(f"{CLIENT}/v3/capabilities")).json["capabilities"]

    assert well_known["org.matrix.msc4143.rtc_foci"] == rtc["rtc_transports"]
    assert rtc["rtc_transports"][0]["type"] == "livekit"
    assert capabilities["m.delayed_events"] == {"max_delay_ms": 86_400_000, "max_scheduled": 100}
    assert policy.status == 404


async def is_recognized(client: HttpClient, method: str, path: str) -> bool:
    """Return whether the server recognizes a request."""
    response = await client.request(method, path, json=None if method in ("GET", "DELETE") else {})
    return response.errcode != "M_UNRECOGNIZED"


def client_of(cluster: Cluster) -> HttpClient:
    return HttpClient(cluster.any_port())
