"""Which member events a lazily loading device gets, when it sends several requests at once."""

from typing import Any

from hs.core.events import event_types
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import keys, open_syncing

NAMED = Draft(event_types.NAME, ALICE, {"name": "room"}, "")


def lazy(limit: int) -> dict[str, Any]:
    return {"room": {"timeline": {"limit": limit}, "state": {"lazy_load_members": True}}}


async def test_members_of_a_lost_response_are_sent_after_another_with_the_same_token(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL], state=[NAMED])
        await s.world.send(room_id, ALICE)
        since = (await s.sync(ALICE, filter=lazy(1)))["next_batch"]
        await s.world.send(room_id, BOB)
        await s.world.send(room_id, CAROL)
        received = await s.sync(ALICE, since, filter=lazy(1))
        await s.sync(ALICE, since, filter=lazy(10))

        await s.world.send(room_id, BOB)
        response = await s.sync(ALICE, received["next_batch"], filter=lazy(1))

        state = response["rooms"]["join"][room_id]["state"]["events"]
        assert keys(state) == {("m.room.member", BOB)}


async def test_members_that_both_of_two_responses_contained_are_not_repeated(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL], state=[NAMED])
        await s.world.send(room_id, ALICE)
        since = (await s.sync(ALICE, filter=lazy(1)))["next_batch"]
        await s.world.send(room_id, BOB)
        await s.sync(ALICE, since, filter=lazy(1))
        repeated = await s.sync(ALICE, since, filter=lazy(1))

        await s.world.send(room_id, BOB)
        response = await s.sync(ALICE, repeated["next_batch"], filter=lazy(1))

        assert response["rooms"]["join"][room_id]["state"]["events"] == []


async def test_members_are_not_repeated_after_a_response_without_lazy_loading(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL], state=[NAMED])
        await s.world.send(room_id, ALICE)
        since = (await s.sync(ALICE, filter=lazy(1)))["next_batch"]
        await s.world.send(room_id, BOB)
        received = await s.sync(ALICE, since, filter=lazy(1))
        await s.sync(ALICE, since)

        await s.world.send(room_id, BOB)
        response = await s.sync(ALICE, received["next_batch"], filter=lazy(1))

        assert response["rooms"]["join"][room_id]["state"]["events"] == []


async def test_lazily_loading_device_that_polls_keeps_its_token(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, state=[NAMED])
        since = (await s.sync(ALICE, filter=lazy(1)))["next_batch"]

        polled = await s.sync(ALICE, since, filter=lazy(1))
        other = await s.sync(ALICE, since)

        assert polled["next_batch"] == other["next_batch"] == since
