"""Rooms that two users share."""

import pytest

from hs.services.rooms.read import mutual_rooms
from hs.storage.database import Database
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, open_world

STABLE = "/_matrix/client/v1/mutual_rooms"
UNSTABLE = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"


async def test_shared_rooms_are_listed_in_pages(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutual_rooms, "PAGE", 2)
    async with open_world(database) as world:
        client = client_of(readers_of(world), ALICE)
        rooms = {await world.create_room(ALICE, join=[BOB]) for _ in range(3)}
        left = await world.create_room(ALICE, join=[BOB])
        await world.leave(left, BOB)
        await world.create_room(ALICE, invite=[BOB])
        await world.create_room(BOB, join=[CAROL])

        first = await client.get(STABLE, token=ALICE, query={"user_id": BOB})
        token = first.json["next_batch"]
        second = await client.get(STABLE, token=ALICE, query={"user_id": BOB, "from": token})
        unstable = await client.get(UNSTABLE, token=ALICE, query={"user_id": BOB})

    assert set(first.json["joined"]) | set(second.json["joined"]) == rooms
    assert (len(first.json["joined"]), first.json["count"]) == (2, 3)
    assert "next_batch" not in second.json
    assert unstable.json["next_batch_token"] == token


@pytest.mark.parametrize(
    "query", [{}, {"user_id": "bob"}, {"user_id": ALICE}, {"user_id": BOB, "from": "x"}]
)
async def test_invalid_request_is_rejected(database: Database, query: dict[str, str]) -> None:
    async with open_world(database) as world:
        client = client_of(readers_of(world), ALICE)
        response = await client.get(STABLE, token=ALICE, query=query)

    assert response.status == 400
