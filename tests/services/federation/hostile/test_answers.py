"""Answers of other servers with values of every kind: clients get errors or valid responses."""

import random
from typing import Any

import pytest

from hs.core.ids import RoomID
from tests.services.federation.hostile.conftest import ServerLog
from tests.services.federation.joining.rooms_between import ANN, BEN, FAR, NEAR, register
from tests.support.federation import PeerNetwork, ScriptedPeer, open_servers
from tests.support.inputs.mutations import ODD_VALUES, mutated

CLIENT = "/_matrix/client/v3"
V1 = "/_matrix/federation/v1"
ROOM = RoomID("!room:far.example")
ROUNDS = 12

SUMMARY = {
    "room_id": ROOM,
    "num_joined_members": 3,
    "world_readable": True,
    "guest_can_join": True,
    "name": "Tea",
    "topic": "t",
    "join_rule": "public",
    "children_state": [
        {
            "type": "m.space.child",
            "state_key": "!child:far.example",
            "sender": ANN,
            "origin_server_ts": 1,
            "content": {"via": ["far.example"], "order": "a"},
        }
    ],
    "allowed_room_ids": ["!x:y"],
}
KEYS = {"user_id": ANN, "device_id": "D", "algorithms": ["x"], "keys": {"ed25519:D": "x"}}
MASTER = {"user_id": ANN, "usage": ["master"], "keys": {"ed25519:m": "m"}}
MEMBER = {
    "type": "m.room.member",
    "room_id": ROOM,
    "sender": BEN,
    "state_key": BEN,
    "content": {"membership": "join"},
    "depth": 5,
    "prev_events": ["$" + "a" * 43],
    "auth_events": ["$" + "b" * 43],
}

# The request of a client, the request that follows, and a valid answer.
EXCHANGES: list[tuple[str, str, Any, str, Any]] = [
    ("GET", f"{CLIENT}/profile/{ANN}", None, f"GET {V1}/query/profile",
     {"displayname": "Ann", "avatar_url": "mxc://a/b", "x.own": {"a": 1}}),
    ("GET", f"{CLIENT}/profile/{ANN}/avatar_url", None, f"GET {V1}/query/profile",
     {"avatar_url": "mxc://a/b"}),
    ("GET", f"{CLIENT}/directory/room/%23tea:far.example", None, f"GET {V1}/query/directory",
     {"room_id": ROOM, "servers": ["far.example", "b.example"]}),
    ("GET", f"{CLIENT}/publicRooms?server=far.example&limit=3", None, f"GET {V1}/publicRooms",
     {"chunk": [SUMMARY], "next_batch": "a", "total_room_count_estimate": 5}),
    ("POST", f"{CLIENT}/publicRooms?server=far.example", {"filter": {"generic_search_term": "a"}},
     f"POST {V1}/publicRooms", {"chunk": [SUMMARY], "prev_batch": "a"}),
    ("GET", f"/_matrix/client/v1/rooms/{ROOM}/hierarchy", None, f"GET {V1}/hierarchy",
     {"room": SUMMARY, "children": [SUMMARY], "inaccessible_children": ["!x:y"]}),
    ("GET", f"/_matrix/client/v1/room_summary/{ROOM}?via=far.example", None,
     f"GET {V1}/hierarchy", {"room": SUMMARY, "children": [], "inaccessible_children": []}),
    ("POST", f"{CLIENT}/keys/query", {"device_keys": {ANN: []}}, f"POST {V1}/user/keys/query",
     {"device_keys": {ANN: {"D": KEYS}}, "master_keys": {ANN: MASTER}}),
    ("POST", f"{CLIENT}/keys/claim", {"one_time_keys": {ANN: {"D": "signed_curve25519"}}},
     f"POST {V1}/user/keys/claim",
     {"one_time_keys": {ANN: {"D": {"signed_curve25519:A": {"key": "x"}}}}}),
    ("POST", f"{CLIENT}/join/{ROOM}?server_name=far.example", {}, f"GET {V1}/make_join",
     {"room_version": "11", "event": MEMBER}),
    ("POST", f"{CLIENT}/knock/{ROOM}?server_name=far.example", {}, f"GET {V1}/make_knock",
     {"room_version": "11", "event": {**MEMBER, "content": {"membership": "knock"}}}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(EXCHANGES)))
async def test_changed_answers_are_no_internal_errors(number: int, server_log: ServerLog) -> None:
    method, path, content, asked, valid = EXCHANGES[number]
    network = PeerNetwork()
    peer = ScriptedPeer(FAR, network)
    async with open_servers(NEAR, network=network) as (near,):
        token = await register(near, BEN)
        rng = random.Random(number)
        answers = [mutated(rng, valid, rng.choice((1, 2, 4))) for _ in range(ROUNDS)]
        answers += [value for value in ODD_VALUES if _is_writable(value)]
        answers += [_with(valid, field, value) for field in valid for value in ODD_VALUES[:35]]
        for answer in filter(_is_writable, answers):
            peer.responses[asked] = (200, answer)
            near.process.clock.advance(3_600_000)  # past what is cached
            response = await near.web().request(method, path, json=content, token=token)

            assert response.status in (200, 400, 403, 404, 502), (answer, response.body)
            assert isinstance(response.json, dict)


def _with(valid: dict[str, Any], field: str, value: Any) -> Any:
    return {**valid, field: value}


def _is_writable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_writable, value.values()))
    if isinstance(value, list):
        return all(map(_is_writable, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63
