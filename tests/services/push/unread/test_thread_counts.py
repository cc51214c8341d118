"""Unread counts with thread subscriptions (MSC4306)."""

from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, World
from tests.support.unread import WITH_THREADS, open_unread


async def reply(world: World, room_id: RoomID, root_id: EventID) -> None:
    relates = {"rel_type": "m.thread", "event_id": root_id}
    world.clock.advance(1)
    content = {"msgtype": "m.text", "body": "reply", "m.relates_to": relates}
    await world.append(room_id, Draft("m.room.message", CAROL, content))


async def test_messages_in_a_thread_count_for_subscribers_only(database: Database) -> None:
    async with open_unread(database, WITH_THREADS) as scene:
        world, subscriptions = scene.world, scene.services.threads.subscriptions
        assert subscriptions is not None
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        root_id = (await world.send(room_id, CAROL, "root")).event_id
        await subscriptions.subscribe(Requester(BOB), room_id, root_id, None)

        await reply(world, room_id, root_id)
        assert await scene.threads(BOB, room_id) == {"main": 1, root_id: 1}
        await subscriptions.unsubscribe(Requester(BOB), room_id, root_id)
        await reply(world, room_id, root_id)

        assert await scene.threads(ALICE, room_id) == {"main": 1}
        assert await scene.threads(BOB, room_id) == {"main": 1, root_id: 1}
