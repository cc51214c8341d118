"""Deactivated users leave their rooms, even if a process ends in between."""

import trio

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.storage.database import Tx
from tests.support.rooms import ALICE, BOB, World


async def membership(world: World, room_id: RoomID) -> object:
    event = await world.states.current_event(room_id, event_types.MEMBER, BOB)
    assert event is not None
    return event.event.content["membership"]


async def test_deactivated_user_leaves_rooms_and_rejects_invites(
    world: World, nursery: trio.Nursery
) -> None:
    nursery.start_soon(world.process.run_duty, "departures")
    joined = await world.create_room(ALICE, join=[BOB])
    invited = await world.create_room(ALICE, invite=[BOB])

    await world.process.services.core.rooms.departures.depart(BOB)

    with trio.fail_after(60):
        for room_id in (joined, invited):
            while await membership(world, room_id) != "leave":
                await trio.lowlevel.checkpoint()
    nursery.cancel_scope.cancel()


async def test_unfinished_departure_is_completed_later(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    await world.database.write(_insert_deactivated_user, BOB)

    await world.process.run_duty("deactivated users in rooms")

    assert await membership(world, room_id) == "leave"


async def _insert_deactivated_user(tx: Tx, user_id: str) -> None:
    await tx.execute(
        "INSERT INTO users (user_id, created_ms, is_deactivated) VALUES ($1, 0, 1)", user_id
    )
