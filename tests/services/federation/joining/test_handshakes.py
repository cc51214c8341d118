"""What this server refuses when other servers ask for memberships."""

from typing import Any

import pytest

from hs.core.canonical_json import canonical_json, encode_lenient, parse_json
from hs.core.events.hashes import event_id_of
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.versions import room_version
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    FAR,
    NEAR,
    join,
    membership_at,
    membership_of,
)
from tests.support.federation import PeerNetwork, ScriptedPeer, open_servers

V1 = "/_matrix/federation/v1"
ALL = "&".join(f"ver={version}" for version in range(1, 13))


@pytest.mark.parametrize("membership", ["join", "knock", "leave"])
@pytest.mark.parametrize(
    ("user_id", "room", "versions", "errcode"),
    [
        (ANN, None, ALL, "M_FORBIDDEN"),
        (BEN, "!none:far.example", ALL, "M_NOT_FOUND"),
        (BEN, None, "ver=1", "M_INCOMPATIBLE_ROOM_VERSION"),
        (BEN, None, "", "M_INCOMPATIBLE_ROOM_VERSION"),
    ],
)
async def test_templates_are_refused(
    membership: str, user_id: UserID, room: str | None, versions: str, errcode: str
) -> None:
    network = PeerNetwork()
    peer = ScriptedPeer(NEAR, network)
    async with open_servers(FAR, network=network) as (far,):
        room_id = room or await far.world.create_room(ANN)
        uri = f"{V1}/make_{membership}/{room_id}/{user_id}?{versions}".rstrip("?")
        response = await peer.client.exchange(FAR, "GET", uri, None)

    if membership == "leave" and errcode == "M_INCOMPATIBLE_ROOM_VERSION":
        errcode = "M_FORBIDDEN"  # whoever is not in a room cannot leave it
    assert errcode.encode() in response.body


@pytest.mark.parametrize("kind", ["join", "leave", "knock"])
@pytest.mark.parametrize(
    "change",
    [
        {"type": "m.room.message"},
        {"content": {"membership": "ban"}},
        {"state_key": ANN},
        {"room_id": "!other:far.example"},
        {"depth": "deep"},
        {"prev_events": ["$" + "a" * 43]},
    ],
)
async def test_wrong_events_are_refused(kind: str, change: dict[str, Any]) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)
        event = await _template(near.client, room_id)
        event["content"] = {"membership": kind}
        event.update(hashes={"sha256": "A" * 43}, signatures={NEAR: {"ed25519:key": "A" * 86}})
        event.update(change)
        uri = f"{V1}/send_{kind}/{room_id}/$" + "b" * 43
        response = await near.client.exchange(FAR, "PUT", uri, canonical_json(event))

        assert response.status == 400
        assert b"M_INVALID_PARAM" in response.body
        assert await membership_at(far, room_id, BEN) is None


@pytest.mark.parametrize(
    ("change", "status", "errcode"),
    [
        ({"sender": ANN, "state_key": ANN}, 403, "M_FORBIDDEN"),
        ({"signatures": {}}, 403, "M_FORBIDDEN"),
        ({"hashes": None}, 403, "M_FORBIDDEN"),
        ({"origin_server_ts": 1.5}, 400, "M_BAD_JSON"),
        ({"bad": 1 << 60}, 400, "M_BAD_JSON"),
    ],
)
async def test_reason_of_a_refusal_is_told(
    change: dict[str, Any], status: int, errcode: str
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        event = await _template(near.client, room_id)
        event.update(hashes={"sha256": "A" * 43}, signatures={NEAR: {"ed25519:key": "A" * 86}})
        event.update(change)
        event_id = event_id_of(event, room_version("11")) if status == 403 else "$" + "b" * 43
        uri = f"{V1}/send_join/{room_id}/{event_id}"
        response = await near.client.exchange(FAR, "PUT", uri, encode_lenient(event))

        assert (response.status, parse_json(response.body)["errcode"]) == (status, errcode)


async def _template(client: Any, room_id: RoomID) -> dict[str, Any]:
    response = await client.get(FAR, f"{V1}/make_join/{room_id}/{BEN}", {"ver": ["11"]})
    return dict(response["event"])


async def test_template_names_the_resident_server() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)

        assert (await _template(near.client, room_id))["origin"] == FAR


async def test_banned_user_gets_no_template() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await membership_of(far).ban(Requester(ANN), room_id, BEN)
        uri = f"{V1}/make_join/{room_id}/{BEN}?{ALL}"
        response = await near.client.exchange(FAR, "GET", uri, None)

    assert response.status == 403


async def test_server_without_users_in_the_room_serves_no_templates() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)
        await near.world.leave(room_id, BEN)
        uri = f"{V1}/make_join/{room_id}/{ANN}?{ALL}"
        response = await far.client.exchange(NEAR, "GET", uri, None)

    assert response.status == 404


async def test_repeated_send_join_gets_the_same_room() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)
        (request,) = [r for _, r in far.network.sent if "send_join" in r.uri]

        first = await near.client.request(FAR, "PUT", request.uri, request.body)
        second = await near.client.request(FAR, "PUT", request.uri, request.body)

    assert first == second
    types = {event["type"] for event in first["state"]}
    assert {"m.room.create", "m.room.member", "m.room.power_levels"} <= types
    assert first["members_omitted"] is False


async def test_redacted_state_is_sent_redacted() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        name = await far.world.set_state(room_id, ANN, "m.room.name", {"name": "Tea"})
        await far.world.redact(room_id, ANN, name.event_id)

        await join(near, BEN, room_id, FAR)

        stored = await near.world.states.current_event(room_id, "m.room.name")
        assert stored is not None
        assert stored.event.content == {}
