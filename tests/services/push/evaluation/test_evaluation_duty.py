"""The evaluation duty: every event once, whatever has to be read and however rows arrive."""

from typing import Any

import attrs
import pytest
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.streams import EVENTS, UNREAD
from hs.repl.feed import Batch
from hs.repl.generations import WriterReplaced
from hs.services.push.evaluation.event_results import EventResults
from hs.services.push.evaluation.result_store import ResultTables
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database, Tx
from hs.storage.push import push_rules, pushers
from hs.storage.rooms import thread_subscriptions
from tests.support.composition import Neighbourhood
from tests.support.pushing import pusher_body
from tests.support.rooms import ALICE, BOB, World, message, open_world
from tests.support.unread import WITH_THREADS, UnreadScene, open_unread, settings_of


def reply_to(root_id: EventID) -> Draft:
    relates = {"rel_type": "m.thread", "event_id": root_id}
    content = {"msgtype": "m.text", "body": "reply", "m.relates_to": relates}
    return Draft(event_types.MESSAGE, ALICE, content)


async def queued(database: Database) -> list[EventID]:
    """List the events in Bob's queue of notifications."""
    return [
        EventID(push.event_id) for push in await database.read(pushers.list_queued, BOB, 0, 100)
    ]


async def set_pusher(unread: UnreadScene) -> None:
    await unread.services.pushers.pushers.change(Requester(BOB, "PHONE"), pusher_body())


async def open_room(world: World) -> RoomID:
    return await world.create_room(ALICE, join=[BOB])


async def test_an_event_read_from_the_tables_is_not_evaluated_again_when_it_is_delivered(
    database: Database,
) -> None:
    neighbours = Neighbourhood()
    main, writer = (settings_of(name, writer="writer") for name in ("main", "writer"))
    async with open_world(database, writer, neighbours=neighbours) as world:
        async with open_unread(database, main, neighbours) as unread:
            room_id = await open_room(world)
            await set_pusher(unread)
        sent = await world.send(room_id, ALICE)
        stream_id, row = world.seen[-1]
        async with open_unread(database, main, neighbours) as unread:
            # The event was committed before the start, and its row arrives after it.
            batch = Batch(EVENTS, "writer", stream_id - 1, stream_id, [(stream_id, row)])
            unread.world.feed.deliver(batch)
            await unread.settle()

            assert await queued(database) == [sent.event_id]
            assert await unread.count(BOB, room_id) == (1, 0)


async def test_evaluation_moves_to_another_process_and_goes_on_where_it_ended(
    database: Database,
) -> None:
    neighbours = Neighbourhood()
    async with open_unread(database, settings_of("main"), neighbours) as unread:
        room_id = await open_room(unread.world)
        await set_pusher(unread)
        sent = [(await unread.world.send(room_id, ALICE)).event_id]

    moved = Neighbourhood()
    main, reader = (settings_of(name, evaluator="reader") for name in ("main", "reader"))
    async with open_unread(database, main, moved) as writing:
        sent.append((await writing.world.send(room_id, ALICE)).event_id)
        async with open_unread(database, reader, moved) as evaluating:
            sent.append((await writing.world.send(room_id, ALICE)).event_id)
            await evaluating.settle()

            assert writing.services.push.evaluation is None
            assert await queued(database) == sent
            assert await writing.count(BOB, room_id) == (3, 0)


async def test_process_that_still_evaluates_under_another_name_can_store_nothing(
    database: Database,
) -> None:
    former = ResultTables(database, UNREAD.name)
    await former.take_over()
    await ResultTables(database, UNREAD.name).take_over()

    with pytest.raises(WriterReplaced):
        await former.write(EventResults().records(VectorPosition().encode()))


async def test_a_user_whose_rules_read_display_names_may_change_their_name(
    database: Database,
) -> None:
    async with open_unread(database) as unread:
        world = unread.world
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
    """A database that reads the subscribers of a thread only once the thread is released."""

    real: Database
    asked: list[str] = attrs.Factory(list)
    released: dict[str, trio.Event] = attrs.Factory(dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def read(self, unit: Any, *args: Any) -> Any:
        if unit is thread_subscriptions.list_subscribers:
            _, root_id = args
            self.asked.append(root_id)
            await self.released.setdefault(root_id, trio.Event()).wait()
        return await self.real.read(unit, *args)

    def release(self, root_id: EventID) -> None:
        self.released[root_id].set()

    async def until_asked(self, root_id: EventID) -> None:
        with trio.fail_after(60):
            while root_id not in self.asked:
                await trio.lowlevel.checkpoint()


async def test_a_notification_is_stored_with_the_position_of_its_event(
    database: Database,
) -> None:
    slow: Any = SlowThreads(database)
    async with open_unread(slow, WITH_THREADS) as unread:
        world = unread.world
        room_id = await open_room(world)
        await set_pusher(unread)
        roots = [(await world.send(room_id, ALICE)).event_id for _ in range(2)]
        await world.append(room_id, reply_to(roots[0]))
        await slow.until_asked(roots[0])
        plain, reply = await world.append(room_id, message(ALICE), reply_to(roots[1]))
        waiting = unread.duty.waiting

        slow.release(roots[0])
        await slow.until_asked(roots[1])
        await unread.duty.flush()
        stored = await database.read(push_rules.load_position)
        before = await queued(database)
        slow.release(roots[1])
        await unread.settle()

        # If a crash followed the flush, an event that is not covered would be pushed again.
        assert stored is not None
        position = VectorPosition.parse(stored)
        assert position.covers("main", plain.stream_id)
        assert not position.covers("main", reply.stream_id)
        assert before == [*roots, plain.event_id]
        assert await queued(database) == before
        assert waiting == 3
        assert unread.duty.waiting == 0


async def test_every_event_is_in_the_outcomes_once_after_a_burst(database: Database) -> None:
    async with open_unread(database) as unread:
        room_id = await open_room(unread.world)
        for _ in range(10):
            await unread.world.append(room_id, *[message(ALICE) for _ in range(20)])
        await unread.settle()
        assert await unread.count(BOB, room_id) == (200, 0)

    async def outcomes(tx: Tx) -> int:
        return int(await tx.fetchval("SELECT count(*) FROM push_outcomes"))

    assert await database.read(outcomes) == 200
