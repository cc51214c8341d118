"""Making rooms, coming and going, and talking in them: the ways through that all else needs."""

from collections.abc import AsyncIterator

import pytest

from hs.core.versions import ROOM_VERSIONS
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB

V3 = "/_matrix/client/v3"


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_rooms_of_every_version_are_made_joined_and_talked_in(
    acts: Actions, version: str
) -> None:
    client = acts.client()

    made = await client.post(
        f"{V3}/createRoom", {"preset": "public_chat", "room_version": version}, token="alice"
    )
    assert made.status == 200, made.json
    room_id = made.json["room_id"]
    joined = await client.post(f"{V3}/rooms/{room_id}/join", {}, token="bob")
    sent = await client.put(
        f"{V3}/rooms/{room_id}/send/m.room.message/t1",
        {"msgtype": "m.text", "body": "hi"},
        token="bob",
    )
    gone = await client.post(f"{V3}/rooms/{room_id}/leave", {}, token="bob")

    assert joined.json == {"room_id": room_id}
    assert sent.status == 200
    assert gone.json == {}
    events = await acts.events_of(room_id)
    assert [one.type for one in events[:5]] == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.history_visibility",
    ]
    assert events[-2].event_id == sent.json["event_id"]
    assert (await acts.state(room_id, "m.room.member", BOB))["membership"] == "leave"
    assert (await acts.state(room_id, "m.room.member", ALICE))["membership"] == "join"


async def test_an_invited_user_joins_a_private_room(acts: Actions) -> None:
    client = acts.client()
    made = await client.post(f"{V3}/createRoom", {"invite": [BOB]}, token="alice")
    room_id = made.json["room_id"]

    refused = await client.post(f"{V3}/join/{room_id}", {}, token="carol")
    joined = await client.post(f"{V3}/join/{room_id}", {}, token="bob")

    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert joined.json == {"room_id": room_id}


async def test_the_same_transaction_gives_the_same_event(acts: Actions) -> None:
    client = acts.client()
    made = await client.post(f"{V3}/createRoom", {}, token="alice")
    path = f"{V3}/rooms/{made.json['room_id']}/send/m.room.message/t1"

    first = await client.put(path, {"body": "x"}, token="alice")
    again = await client.put(path, {"body": "x"}, token="alice")

    assert first.json == again.json
