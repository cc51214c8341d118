"""Sliding sync at its unstable path."""

from typing import Any

import pytest

from hs.apis.client.server.unstable_features import UNSTABLE_FEATURES
from hs.storage.database import Database
from tests.support.reading import client_of
from tests.support.rooms import ALICE, message
from tests.support.sliding import open_sliding

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

# The first request of current clients.
INITIAL_BODY: dict[str, Any] = {
    "conn_id": "room-list",
    "lists": {
        "all_rooms": {
            "ranges": [[0, 19]],
            "required_state": [
                ["m.room.name", ""],
                ["m.room.encryption", ""],
                ["m.room.member", "$LAZY"],
                ["m.room.member", "$ME"],
                ["m.room.create", ""],
                ["org.matrix.msc3401.call.member", "*"],
            ],
            "timeline_limit": 1,
            "include_heroes": True,
            "filters": {"not_room_types": ["m.space"], "is_invite": None},
        }
    },
    "extensions": {
        "to_device": {"enabled": True},
        "e2ee": {"enabled": True},
        "account_data": {"enabled": True},
        "receipts": {"enabled": True, "rooms": ["*"]},
        "typing": {"enabled": True},
    },
}


async def test_list_returns_its_rooms_once(database: Database) -> None:
    async with open_sliding(database) as sliding:
        client = client_of(sliding.reading, ALICE)
        room_id = await sliding.world.create_room(ALICE)
        await sliding.world.append(room_id, message(ALICE, "hi"))

        first = await client.post(PATH, INITIAL_BODY, token=ALICE, query={"timeout": 0})
        pos = first.json["pos"]
        second = await client.post(
            PATH, INITIAL_BODY, token=ALICE, query={"pos": pos, "timeout": 1}
        )

        assert first.status == second.status == 200
        room = first.json["rooms"][room_id]
        assert room["timeline"][0]["content"]["body"] == "hi"
        assert {event["type"] for event in room["required_state"]} == {
            "m.room.member",
            "m.room.create",
        }
        assert set(first.json["extensions"]) == {"account_data", "to_device", "e2ee"}
        assert second.json["rooms"] == {}
        assert UNSTABLE_FEATURES["org.matrix.simplified_msc3575"]


@pytest.mark.parametrize(
    ("query", "body", "status", "errcode"),
    [
        ({"pos": "s1_c7"}, {}, 400, "M_UNKNOWN_POS"),
        ({"pos": "\0"}, {}, 400, "M_INVALID_PARAM"),
        ({"timeout": "soon"}, {}, 400, "M_INVALID_PARAM"),
        ({"set_presence": "asleep"}, {}, 400, "M_INVALID_PARAM"),
        ({}, {"conn_id": "x" * 256}, 400, "M_INVALID_PARAM"),
        ({}, {"conn_id": 1}, 400, "M_BAD_JSON"),
        ({}, {"lists": []}, 400, "M_BAD_JSON"),
        ({}, {"lists": {"a": {"ranges": [[0]]}}}, 400, "M_BAD_JSON"),
        ({}, {"lists": {"a": {"ranges": [[5, 1]]}}}, 400, "M_INVALID_PARAM"),
        ({}, {"lists": {"a": {"required_state": [["m.room.name"]]}}}, 400, "M_BAD_JSON"),
        ({}, {"lists": {"a": {"filters": {"is_dm": 1}}}}, 400, "M_BAD_JSON"),
        ({}, {"room_subscriptions": {"!a:b": {"timeline_limit": "1"}}}, 400, "M_BAD_JSON"),
        ({}, {"extensions": {"typing": True}}, 400, "M_BAD_JSON"),
        ({}, {"room_subscriptions": {"nonsense": {}}, "lists": {"a": {}}}, 200, None),
        ({"timeout": -5}, {}, 200, None),
    ],
)
async def test_invalid_request_is_rejected(
    database: Database, query: dict[str, Any], body: Any, status: int, errcode: str | None
) -> None:
    async with open_sliding(database) as sliding:
        client = client_of(sliding.reading, ALICE)

        response = await client.post(PATH, body, token=ALICE, query=query)

        assert (response.status, response.errcode) == (status, errcode)


@pytest.mark.parametrize("path", [PATH, "/_matrix/client/v4/sync"])
async def test_profiles_extension_has_its_unstable_name(database: Database, path: str) -> None:
    async with open_sliding(database) as sliding:
        client = client_of(sliding.reading, ALICE)
        await sliding.world.create_room(ALICE)
        await sliding.set_profile_field(ALICE, "m.status", "here")
        extension = {"enabled": True, "fields": ["m.status"]}
        body = {"conn_id": "c", "extensions": {"org.matrix.msc4262.profiles": extension}}

        first = await client.post(path, body, token=ALICE)
        broken = {**body, "extensions": {"org.matrix.msc4262.profiles": {"fields": [1]}}}
        refused = await client.post(path, broken, token=ALICE)

        assert first.json["extensions"] == {
            "org.matrix.msc4262.profiles": {"users": {ALICE: {"updated": {"m.status": "here"}}}}
        }
        assert (refused.status, refused.errcode) == (400, "M_BAD_JSON")
