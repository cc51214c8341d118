"""The evaluation duty: every event once, whatever has to be read and however rows arrive."""

from typing import Any

import attrs
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.streams import EVENTS
from hs.repl.feed import Batch
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database, Tx
from hs.storage.push import push_rules, pushers
from hs.storage.rooms import thread_subscriptions
from tests.support.pushing import PushScene, open_pushing
from tests.support.rooms import ALICE, BOB, World, message, open_world
from tests.support.unread import open_unread


def reply_to(root_id: EventID) -> Draft:
    relates = {"rel_type": "m.thread", "event_id": root_id}
    content = {"msgtype": "m.text", "body": "reply", "m.relates_to": relates}
    return Draft(event_types.MESSAGE, ALICE, content)


async def queued(database: Database) -> list[EventID]:
    """List the events in Bob's queue of notifications."""
    return [
        EventID(push.event_id) for push in await database.read(pushers.list_queued, BOB, 0, 100)
    ]


async def open_room(world: World, scene: PushScene) -> RoomID:
    room_id = await world.create_room(ALICE, join=[BOB])
    await scene.set_pusher(BOB)
    return room_id


async def test_an_event_read_from_the_tables_is_not_evaluated_again_when_it_is_delivered(
    database: Database,
) -> None:
    async with open_world(database) as world:
        async with open_pushing(world, is_sending=False) as scene:
            room_id = await open_room(world, scene)
        sent = await world.send(room_id, ALICE)
        stream_id, row = world.seen[-1]
        async with open_pushing(world, is_sending=False) as scene:
            # The event was committed before the start, and its row arrives after it.
            batch = Batch(EVENTS, "main", stream_id - 1, stream_id, [(stream_id, row)])
            world.feed.deliver(batch)
            await scene.unread.settle()

            assert await queued(database) == [sent.event_id]
            assert await scene.unread.count(BOB, room_id) == (1, 0)


async def test_a_user_whose_rules_read_display_names_may_change_their_name(
    database: Database,
) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        rule = {
            "actions": ["notify", {"set_tweak": "highlight"}],
            "conditions": [{"kind": "contains_display_name"}],
        }
        await unread.rules.put(Requester(BOB), "override", "name", rule, None, None)

        for name in ("Bobby", "Rob"):
            content = {"membership": "join", "displayname": name}
            await world.set_state(room_id, BOB, event_types.MEMBER, content, BOB)
            await world.send(room_id, ALICE, "ask bobby!")

        with trio.fail_after(60):
            assert await unread.count(BOB, room_id) == (2, 1)


@attrs.define(eq=False)
class SlowThreads:
    """A database that reads who subscribes to a thread only once it is released."""

    real: Database
    asked: list[str] = attrs.Factory(list)
    released: dict[str, trio.Event] = attrs.Factory(dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def read(self, unit: Any, room_id: RoomID, root_id: EventID) -> Any:
        assert unit is thread_subscriptions.list_subscribers
        self.asked.append(root_id)
        await self.released.setdefault(root_id, trio.Event()).wait()
        return await self.real.read(unit, room_id, root_id)

    def release(self, root_id: EventID) -> None:
        self.released[root_id].set()

    async def until_asked(self, root_id: EventID) -> None:
        with trio.fail_after(60):
            while root_id not in self.asked:
                await trio.lowlevel.checkpoint()


async def test_a_notification_is_stored_with_the_position_of_its_event(
    database: Database,
) -> None:
    slow = SlowThreads(database)
    async with open_world(database) as world:
        threads = ThreadSubscribers(slow, world.feed)  # type: ignore[arg-type]  # it only reads
        async with open_pushing(world, is_sending=False, threads=threads) as scene:
            room_id = await open_room(world, scene)
            roots = [(await world.send(room_id, ALICE)).event_id for _ in range(2)]
            await world.append(room_id, reply_to(roots[0]))
            await slow.until_asked(roots[0])
            plain, reply = await world.append(room_id, message(ALICE), reply_to(roots[1]))
            waiting = scene.unread.duty.waiting

            slow.release(roots[0])
            await slow.until_asked(roots[1])
            await scene.unread.duty.flush()
            stored = await database.read(push_rules.load_position)
            before = await queued(database)
            slow.release(roots[1])
            await scene.unread.settle()

            # If a crash followed the flush, an event that is not covered would be pushed again.
            assert stored is not None
            position = VectorPosition.parse(stored)
            assert position.covers("main", plain.stream_id)
            assert not position.covers("main", reply.stream_id)
            assert before == [*roots, plain.event_id]
            assert await queued(database) == before
            assert waiting == 3
            assert scene.unread.duty.waiting == 0


async def test_every_event_is_in_the_outcomes_once_after_a_burst(database: Database) -> None:
    async with open_world(database) as world:
        async with open_unread(world) as unread:
            room_id = await world.create_room(ALICE, join=[BOB])
            for _ in range(10):
                await world.append(room_id, *[message(ALICE) for _ in range(20)])
            await unread.settle()
            assert await unread.count(BOB, room_id) == (200, 0)

    async def outcomes(tx: Tx) -> int:
        return int(await tx.fetchval("SELECT count(*) FROM push_outcomes"))

    assert await database.read(outcomes) == 200
