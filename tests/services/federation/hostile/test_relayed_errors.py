"""Errors of other servers that clients would take for errors of their own session."""

from typing import Any

import orjson
import pytest

from hs.core.errors import RemoteFault, matrix_error, may_be_relayed
from hs.core.ids import RoomID, ServerName
from hs.services.federation_client.client import check_status, object_in
from hs.services.federation_client.peer_transport import PeerResponse
from tests.services.federation.joining.rooms_between import ANN, BEN, FAR, NEAR, join, register
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, open_servers

CLIENT = "/_matrix/client/v3"
ROOM = RoomID("!room:far.example")
ABOUT_SESSIONS = [
    (401, "M_UNKNOWN_TOKEN"),
    (403, "M_UNKNOWN_TOKEN"),
    (400, "M_MISSING_TOKEN"),
    (403, "M_USER_DEACTIVATED"),
    (403, "M_CONSENT_NOT_GIVEN"),
    (401, "M_USER_LOCKED"),
    (429, "M_LIMIT_EXCEEDED"),
    (500, "M_UNKNOWN"),
    (204, "M_UNKNOWN"),
    (302, "M_FORBIDDEN"),
]
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", f"{CLIENT}/join/{ROOM}", {}),
    ("POST", f"{CLIENT}/knock/{ROOM}", {}),
    ("GET", f"{CLIENT}/profile/@ann:far.example", None),
    ("GET", f"{CLIENT}/profile/@ann:far.example/displayname", None),
    ("GET", f"{CLIENT}/directory/room/%23tea:far.example", None),
    ("GET", f"{CLIENT}/publicRooms?server=far.example", None),
    ("GET", "/_matrix/client/v1/media/download/far.example/abc", None),
    ("GET", f"/_matrix/client/v1/rooms/{ROOM}/hierarchy", None),
    ("GET", f"/_matrix/client/v1/room_summary/{ROOM}", None),
    ("POST", f"{CLIENT}/keys/query", {"device_keys": {"@ann:far.example": []}}),
    ("POST", f"{CLIENT}/keys/claim", {"one_time_keys": {"@ann:far.example": {"D": "x"}}}),
]


@pytest.mark.parametrize(("status", "errcode"), ABOUT_SESSIONS)
async def test_no_error_about_a_session_reaches_a_client(status: int, errcode: str) -> None:
    network = PeerNetwork()
    error = {"errcode": errcode, "error": "x", "soft_logout": True}
    methods = ("GET /", "PUT /", "POST /")
    ScriptedPeer(FAR, network, dict.fromkeys(methods, (status, error)))
    async with open_servers(NEAR, network=network) as (near,):
        token = await register(near, BEN)
        for method, path, content in REQUESTS:
            response = await near.web().request(method, path, json=content, token=token)

            assert response.errcode != errcode or errcode in ("M_UNKNOWN", "M_FORBIDDEN")
            assert response.status not in (401, 429, 500, 204, 302), (path, response.body)
            assert not response.json.get("soft_logout")
        assert (await near.web().get(f"{CLIENT}/account/whoami", token=token)).status == 200


@pytest.mark.parametrize(("status", "errcode"), ABOUT_SESSIONS[::3])
async def test_policy_server_cannot_log_users_out(status: int, errcode: str) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        token = await register(near, BEN)
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)
        keys = {"ed25519": "x" * 43}
        content = {"via": FAR, "public_keys": keys, "public_key": keys["ed25519"]}
        policy = await far.world.set_state(room_id, ANN, "m.room.policy", content)
        stored = await far.world.events.get_one(policy.event_id)
        assert stored is not None
        receiver = near.process.services.core.rooms.receiver
        await receiver.receive(room_id, [stored.event.canonical], [], {})
        honest = network.answers[FAR]
        asked = []

        async def lie(request: Any) -> PeerResponse:
            if "/policy/" in request.uri:
                asked.append(request.uri)
                return PeerResponse(status, {}, orjson.dumps({"errcode": errcode, "error": "x"}))
            return await honest(request)

        network.answers[FAR] = lie
        response = await send(near, token, room_id)

    assert asked
    assert response.status not in (401, 429, 500, 204, 302)
    assert response.errcode not in ("M_UNKNOWN_TOKEN", "M_USER_DEACTIVATED", "M_MISSING_TOKEN")


async def send(near: FederatedServer, token: str, room_id: RoomID) -> Any:
    path = f"{CLIENT}/rooms/{room_id}/send/m.room.message/1"
    return await near.web().put(path, {"msgtype": "m.text", "body": "x"}, token=token)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 60_000,
        b'{"errcode":5,"error":[]}',
        b'{"errcode":"M_X","error":{"a":1},"room_version":[]}',
        orjson.dumps({"errcode": "M_" + "X" * 60_000}),
        orjson.dumps({"errcode": "M_X", "error": "e" * 60_000}),
        orjson.dumps({"errcode": "M_X", "error": "e" * 200_000}),
        orjson.dumps({"errcode": "M_X", "error": "line\n2026-12-01 ERROR forged"}),
    ],
)
def test_errors_of_peers_are_bounded(body: bytes) -> None:
    with pytest.raises(RemoteFault) as caught:
        check_status(ServerName("far.example"), PeerResponse(400, {}, body))

    assert len(str(caught.value)) < 600
    if caught.value.error is not None:
        assert len(caught.value.error.message) <= 1000


def test_response_of_very_many_values_is_not_parsed() -> None:
    body = b'{"a":[' + b"[]," * 5_100_000 + b"[]]}"

    with pytest.raises(RemoteFault, match="values"):
        object_in(ServerName("far.example"), PeerResponse(200, {}, body))


@pytest.mark.parametrize(
    ("status", "errcode", "is_relayed"),
    [
        (403, "M_FORBIDDEN", True),
        (404, "M_NOT_FOUND", True),
        (400, "ORG_EXAMPLE_OWN", True),
        (403, "M_UNKNOWN_TOKEN", False),
        (500, "M_FORBIDDEN", False),
        (200, "M_FORBIDDEN", False),
    ],
)
def test_errors_about_rooms_are_relayed(status: int, errcode: str, is_relayed: bool) -> None:
    assert may_be_relayed(matrix_error(errcode, status, "")) is is_relayed
