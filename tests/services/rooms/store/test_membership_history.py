"""A user who has left a room sees its state as it was when they left."""

import pytest

from hs.core.ids import EventID
from hs.storage.database import Database
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, open_world

ROOMS = "/_matrix/client/v3/rooms"


@pytest.mark.parametrize("then", ["ban", "invite"])
async def test_state_set_after_leaving_is_not_visible(database: Database, then: str) -> None:
    async with open_world(database) as world:
        client = client_of(readers_of(world), BOB)
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.leave(room_id, BOB)
        await world.set_state(room_id, ALICE, "m.room.topic", {"topic": "secret"})
        await world.join(room_id, CAROL)
        await world.set_membership(room_id, ALICE, BOB, then)

        state = await client.get(f"{ROOMS}/{room_id}/state", token=BOB)
        assert state.status == 200
        assert b"secret" not in state.body
        assert b"m.room.create" in state.body
        topic = await client.get(f"{ROOMS}/{room_id}/state/m.room.topic", token=BOB)
        assert topic.status == 404
        members = await client.get(f"{ROOMS}/{room_id}/members", token=BOB)
        assert CAROL.encode() not in members.body
        own = await client.get(f"{ROOMS}/{room_id}/state/m.room.member/{BOB}", token=BOB)
        assert own.json["membership"] == then


async def test_last_end_is_the_member_event_after_the_last_join(database: Database) -> None:
    async with open_world(database) as world:
        history = world.process.services.reading.membership_history
        room_id = await world.create_room(ALICE, join=[BOB])
        left = await world.leave(room_id, BOB)
        banned = await world.set_membership(room_id, ALICE, BOB, "ban")
        stranger = await world.set_membership(room_id, ALICE, CAROL, "ban")

        for _ in range(2):  # computed, then cached
            end = await history.last_end(banned.event_id)
            assert end is not None
            assert end.event.event_id == left.event_id
            assert await history.last_end(stranger.event_id) is None
        assert not await history.state_at_end(EventID("$unknown"))
