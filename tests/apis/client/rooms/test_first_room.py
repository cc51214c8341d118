"""Creating, joining, talking in and leaving a room: what all else depends on."""

from collections.abc import AsyncIterator

import pytest

from hs.core.versions import ROOM_VERSIONS
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB

V3 = "/_matrix/client/v3"


@pytest.fixture
async def actions(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as actions:
        yield actions


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_room_of_every_version_can_be_used(actions: Actions, version: str) -> None:
    client = actions.client()

    created = await client.post(
        f"{V3}/createRoom", {"preset": "public_chat", "room_version": version}, token="alice"
    )
    assert created.status == 200, created.json
    room_id = created.json["room_id"]
    joined = await client.post(f"{V3}/rooms/{room_id}/join", {}, token="bob")
    sent = await client.put(
        f"{V3}/rooms/{room_id}/send/m.room.message/t1",
        {"msgtype": "m.text", "body": "hi"},
        token="bob",
    )
    left = await client.post(f"{V3}/rooms/{room_id}/leave", {}, token="bob")

    assert joined.json == {"room_id": room_id}
    assert sent.status == 200
    assert left.json == {}
    events = await actions.events_of(room_id)
    assert [event.type for event in events[:5]] == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.history_visibility",
    ]
    assert events[-2].event_id == sent.json["event_id"]
    assert (await actions.state(room_id, "m.room.member", BOB))["membership"] == "leave"
    assert (await actions.state(room_id, "m.room.member", ALICE))["membership"] == "join"


async def test_invited_user_joins_a_private_room(actions: Actions) -> None:
    client = actions.client()
    created = await client.post(f"{V3}/createRoom", {"invite": [BOB]}, token="alice")
    room_id = created.json["room_id"]

    uninvited = await client.post(f"{V3}/join/{room_id}", {}, token="carol")
    joined = await client.post(f"{V3}/join/{room_id}", {}, token="bob")

    assert (uninvited.status, uninvited.errcode) == (403, "M_FORBIDDEN")
    assert joined.json == {"room_id": room_id}


async def test_repeated_transaction_returns_the_same_event(actions: Actions) -> None:
    client = actions.client()
    created = await client.post(f"{V3}/createRoom", {}, token="alice")
    path = f"{V3}/rooms/{created.json['room_id']}/send/m.room.message/t1"

    first = await client.put(path, {"body": "x"}, token="alice")
    repeated = await client.put(path, {"body": "x"}, token="alice")

    assert first.json == repeated.json
