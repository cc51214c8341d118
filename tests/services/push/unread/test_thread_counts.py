"""Unread counts with thread subscriptions (MSC4306)."""

import trio

from hs.core.ids import EventID, RoomID
from hs.core.streams import THREAD_SUBSCRIPTIONS
from hs.repl.inproc import local_transport
from hs.repl.writers import TableWriter
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.threads.thread_subscriptions import SubscriptionTable
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world
from tests.support.unread import open_unread


async def reply(world: World, room_id: RoomID, root_id: EventID) -> None:
    relates = {"rel_type": "m.thread", "event_id": root_id}
    world.clock.advance(1)
    content = {"msgtype": "m.text", "body": "reply", "m.relates_to": relates}
    await world.append(room_id, Draft("m.room.message", CAROL, content))


async def test_messages_in_a_thread_count_for_subscribers_only(database: Database) -> None:
    async with open_world(database) as world, trio.open_nursery() as nursery:
        stream = TableWriter(
            THREAD_SUBSCRIPTIONS, "main", database, local_transport(world.feed), world.clock.now_ms
        )
        await nursery.start(stream.run)
        threads = ThreadSubscribers(database, world.feed)
        async with open_unread(world, threads=threads) as scene:
            room_id = await world.create_room(ALICE, join=[BOB, CAROL])
            root_id = (await world.send(room_id, CAROL, "root")).event_id
            table = SubscriptionTable(stream)
            await table.subscribe(BOB, room_id, root_id, None, 0)

            await reply(world, room_id, root_id)
            assert await scene.threads(BOB, room_id) == {"main": 1, root_id: 1}
            await table.unsubscribe(BOB, room_id, root_id, 0)
            await reply(world, room_id, root_id)

            assert await scene.threads(ALICE, room_id) == {"main": 1}
            assert await scene.threads(BOB, room_id) == {"main": 1, root_id: 1}
        nursery.cancel_scope.cancel()
