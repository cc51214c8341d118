"""Unread counts: what counts, what reading changes, and that a restart changes nothing."""

from typing import Any, ParamSpec, TypeVar

import attrs
import orjson
import pytest
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import ACCOUNT_DATA, UNREAD
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub
from hs.repl.rpc_reply import RpcUnavailable
from hs.repl.writers import TableWriter, WriterReplaced
from hs.services.accounts.account_data.account_data import IGNORED_USER_LIST, LocalAccountDataWriter
from hs.services.ephemeral.room_receipts import READ_PRIVATE
from hs.services.push.evaluation.evaluation_duty import EvaluationStore
from hs.services.push.evaluation.result_store import Progress
from hs.services.rooms.append.drafts import Draft
from hs.storage import stream_log
from hs.storage.database import Database, DatabaseLoad, DatabaseUnavailable, Unit
from hs.storage.dialect import Dialect, Engine
from hs.storage.push import push_rules as storage
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world
from tests.support.unread import open_unread

P = ParamSpec("P")
T = TypeVar("T")


async def say(world: World, room_id: RoomID, sender: UserID = ALICE, **content: Any) -> EventID:
    draft = Draft(event_types.MESSAGE, sender, {"msgtype": "m.text", "body": "hi", **content})
    return (await world.append(room_id, draft))[0].event_id


def in_thread(root: EventID) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


def mentioning(*user_ids: UserID) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": list(user_ids)}}


async def test_messages_of_others_are_unread_until_a_receipt(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        first = await say(world, room_id)
        second = await say(world, room_id)

        assert await unread.count(BOB, room_id) == (2, 0)
        assert await unread.count(ALICE, room_id) == (0, 0)
        await unread.read(BOB, room_id, first)
        assert await unread.count(BOB, room_id) == (1, 0)
        await unread.read(BOB, room_id, second, receipt_type=READ_PRIVATE)
        assert await unread.count(BOB, room_id) == (0, 0)
        await say(world, room_id)
        assert await unread.count(BOB, room_id) == (1, 0)


async def test_call_counts_only_when_it_starts(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        call, ring = event_types.GROUP_CALL, {"m.intent": "m.ring"}

        for content in (ring, {**ring, "m.name": "Tea"}, {**ring, "m.terminated": "left"}, ring):
            await world.set_state(room_id, ALICE, call, content, "call")

        assert await unread.count(BOB, room_id) == (2, 0)


async def test_messages_of_ignored_users_do_not_count(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        transport = InProcHub().join(world.feed)
        writer = TableWriter(ACCOUNT_DATA, "main", database, transport, world.clock.now_ms)
        ignored = orjson.dumps({"ignored_users": {ALICE: {}}})
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            lists = LocalAccountDataWriter(writer)
            await lists.put(BOB, "", IGNORED_USER_LIST, ignored)
            await say(world, room_id, ALICE)
            while_ignored = [await unread.count(user, room_id) for user in (BOB, CAROL)]
            await lists.put(BOB, "", IGNORED_USER_LIST, b'{"ignored_users":{}}')
            await say(world, room_id, ALICE)
            nursery.cancel_scope.cancel()

        assert while_ignored == [(0, 0), (1, 0)]
        assert await unread.count(BOB, room_id) == (1, 0)


async def test_mentions_highlight_for_the_mentioned_users(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        await say(world, room_id, **mentioning(BOB, ALICE))
        everybody: dict[str, Any] = {"m.mentions": {"room": True}}
        await say(world, room_id, ALICE, **everybody)
        await say(world, room_id, BOB, **everybody)  # who may not notify the room

        assert await unread.count(BOB, room_id) == (
            0,
            0,
        )  # Bob sent a message, which marks all as read
        assert await unread.count(CAROL, room_id) == (3, 1)
        await say(world, room_id, **mentioning(BOB))
        assert await unread.count(BOB, room_id) == (1, 1)


async def test_nothing_before_the_join_is_unread(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, invite=[BOB])
        await say(world, room_id)
        await world.join(room_id, BOB)

        assert await unread.count(BOB, room_id) == (0, 0)
        await say(world, room_id)
        await world.set_state(
            room_id, BOB, "m.room.member", {"membership": "join", "displayname": "B"}, BOB
        )
        assert await unread.count(BOB, room_id) == (1, 0)


async def test_redacted_messages_are_not_counted(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        event_id = await say(world, room_id, **mentioning(BOB))
        await say(world, room_id)
        assert await unread.count(BOB, room_id) == (2, 1)

        await world.redact(room_id, ALICE, event_id)

        assert await unread.count(BOB, room_id) == (1, 0)
        assert (await unread.another_counter().counts(BOB, [room_id]))[room_id].main == (1, 0)


async def test_threads_are_counted_and_read_separately(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        root = await say(world, room_id)
        reply = await say(world, room_id, **in_thread(root))
        await say(world, room_id, **in_thread(root))
        plain = await say(world, room_id)

        assert await unread.threads(BOB, room_id) == {"main": 2, root: 2}
        await unread.read(BOB, room_id, reply, root)
        assert await unread.threads(BOB, room_id) == {"main": 2, root: 1}
        await unread.read(BOB, room_id, plain, "main")
        assert await unread.threads(BOB, room_id) == {root: 1}
        fresh = (await unread.another_counter().counts(BOB, [room_id]))[room_id]
        assert (fresh.main, fresh.threads) == ((0, 0), {root: (1, 0)})
        await unread.read(BOB, room_id, plain)
        assert await unread.threads(BOB, room_id) == {}


async def test_own_push_rules_change_what_counts(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        muted = Requester(BOB)
        await unread.rules.put(muted, "room", room_id, {"actions": []}, None, None)
        loud = {"actions": ["notify", {"set_tweak": "highlight"}], "pattern": "cake"}
        await unread.rules.put(Requester(CAROL), "content", "cake", loud, None, None)

        await say(world, room_id, body="there is cake")
        await say(world, room_id, **mentioning(BOB))

        assert await unread.count(BOB, room_id) == (1, 1)
        assert await unread.count(CAROL, room_id) == (2, 1)
        await unread.rules.delete(muted, "room", room_id)
        await say(world, room_id)
        assert await unread.count(BOB, room_id) == (2, 1)


async def test_rule_on_the_display_name_matches_the_body(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.set_state(
            room_id, BOB, "m.room.member", {"membership": "join", "displayname": "Bobby"}, BOB
        )
        rule = {
            "actions": ["notify", {"set_tweak": "highlight"}],
            "conditions": [{"kind": "contains_display_name"}],
        }
        await unread.rules.put(Requester(BOB), "override", "name", rule, None, None)

        await say(world, room_id, body="ask bobby!")

        assert await unread.count(BOB, room_id) == (1, 1)


async def test_counts_do_not_change_with_a_restart(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        await say(world, room_id)
        await say(world, room_id, **mentioning(BOB))
        before = await unread.count(BOB, room_id)

    async with open_world(database) as world, open_unread(world) as unread:
        assert await unread.count(BOB, room_id) == before == (2, 1)
        await say(world, room_id)
        assert await unread.count(BOB, room_id) == (3, 1)


async def test_events_sent_while_no_process_evaluates_are_counted_later(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        root = await say(world, room_id)
        await say(world, room_id, **in_thread(root))
        gone = await say(world, room_id)
        await world.redact(room_id, ALICE, gone)

    async with open_world(database) as world, open_unread(world) as unread:
        assert await unread.threads(BOB, room_id) == {"main": 1, root: 1}
        # Alice has read by sending messages, and before that by joining.
        assert await unread.count(ALICE, room_id) == (0, 0)


async def test_count_includes_notifications_dropped_from_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.push.unread.recent_notifications.MAX_ROWS", 8)
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        assert await unread.count(CAROL, room_id) == (0, 0)
        for number in range(20):
            await say(world, room_id)
            if number % 7 == 0:
                assert await unread.count(CAROL, room_id) == (number + 1, 0)

        assert await unread.count(BOB, room_id) == (20, 0)
        assert await unread.count(CAROL, room_id) == (20, 0)


async def test_sending_messages_does_not_make_the_database_count_again(
    database: Database,
) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        for _ in range(3):
            await say(world, room_id)
    async with open_world(database) as world, open_unread(world) as unread:
        recorded = Recorded(database)
        counting = unread.another_counter(database=recorded)
        assert (await counting.counts(BOB, [room_id]))[room_id].main == (3, 0)
        asked = recorded.units.count("count_unread")

        for _ in range(5):
            await say(world, room_id, BOB)
            assert await counting.counts(BOB, [room_id]) == {}
            await say(world, room_id)
            assert (await counting.counts(BOB, [room_id]))[room_id].main == (1, 0)

        assert recorded.units.count("count_unread") == asked == 1


class Recorded:
    """A database that records the names of the units that read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.units: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, unit: Any, *args: Any) -> Any:
        self.units.append(unit.__name__)
        return await self._database.read(unit, *args)


async def test_many_rooms_are_counted_together(database: Database) -> None:
    async with open_world(database) as world, open_unread(world) as unread:
        rooms = [await world.create_room(ALICE, join=[BOB]) for _ in range(4)]
        for number, room_id in enumerate(rooms):
            for _ in range(number):
                await say(world, room_id)

        found = await unread.another_counter().counts(BOB, rooms)

        counted = {room_id: count.main.notifications for room_id, count in found.items()}
        assert counted == {rooms[1]: 1, rooms[2]: 2, rooms[3]: 3}
        assert await unread.counting.badge(BOB, rooms, by_room=True) == 3
        assert await unread.counting.badge(BOB, rooms, by_room=False) == 6


async def test_another_process_counts_the_same(database: Database) -> None:
    hub = InProcHub()
    async with open_world(database, hub=hub) as world, open_unread(world, hub) as unread:
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        await say(world, room_id)
        feed = Feed()
        elsewhere = unread.another_counter(feed)
        hub.join(feed)

        async def count(user_id: UserID) -> tuple[int, ...]:
            return tuple((await elsewhere.counts(user_id, [room_id]))[room_id].total())

        assert await count(BOB) == (1, 0)
        event_id = await say(world, room_id, **mentioning(BOB))
        await say(world, room_id)
        assert await count(BOB) == (3, 1)
        assert await count(CAROL) == (3, 0)
        await unread.read(BOB, room_id, event_id)
        assert await count(BOB) == (1, 0)
        await world.redact(room_id, ALICE, event_id)
        assert await count(CAROL) == (2, 0)


@attrs.define
class EvaluatingProcess:
    """The evaluating process as another one reaches it: after a restart it is a new one."""

    now: EvaluationStore

    async def flush(self) -> Progress:
        return await self.now.flush()


async def test_restarted_evaluation_neither_loses_nor_doubles_counts(
    database: Database,
) -> None:
    hub = InProcHub()
    feed = Feed()
    async with open_world(database, hub=hub) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        async with open_unread(world, hub) as unread:
            evaluating = EvaluatingProcess(unread.duty)
            elsewhere = unread.another_counter(feed, store=evaluating)
            hub.join(feed)
            await say(world, room_id)
            assert (await elsewhere.counts(BOB, [room_id]))[room_id].main == (1, 0)
        await say(world, room_id)
        world.clock.advance(1000)
        async with open_unread(world, hub) as unread:
            evaluating.now = unread.duty
            await say(world, room_id)
            assert (await elsewhere.counts(BOB, [room_id]))[room_id].main == (3, 0)


class UnreachableEvaluation:
    """An evaluating process that cannot be reached."""

    def __init__(self) -> None:
        self.asked = 0

    async def flush(self) -> Progress:
        self.asked += 1
        raise RpcUnavailable("main", "it does not run")


async def test_counts_are_answered_while_no_process_evaluates(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = InProcHub()
    feed = Feed()
    unreachable = UnreachableEvaluation()
    async with open_world(database, hub=hub) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        async with open_unread(world, hub) as unread:
            await say(world, room_id)
            await unread.settle()

        evaluating = EvaluatingProcess(unreachable)
        elsewhere = unread.another_counter(feed, store=evaluating)
        hub.join(feed)
        await say(world, room_id)

        assert (await elsewhere.counts(BOB, [room_id]))[room_id].main == (1, 0)
        assert (await elsewhere.counts(BOB, [room_id]))[room_id].main == (1, 0)
        assert unreachable.asked == 1
        world.clock.advance(1000)
        monkeypatch.setattr("hs.services.push.unread.stored_progress.GUESS_S", 0.0)
        async with open_unread(world, hub) as unread:
            evaluating.now = unread.duty
            await say(world, room_id)
            assert (await elsewhere.counts(BOB, [room_id]))[room_id].main == (3, 0)


async def test_counts_are_exact_once_the_evaluating_process_is_reachable_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.push.unread.stored_progress.GUESS_S", 0.0)
    hub = InProcHub()
    feed = Feed()
    async with open_world(database, hub=hub) as world, open_unread(world, hub) as unread:
        room_id = await world.create_room(ALICE, join=[BOB])
        await unread.settle()
        # Announced but not stored, and before the other process listens.
        await say(world, room_id)
        evaluating = EvaluatingProcess(UnreachableEvaluation())
        elsewhere = unread.another_counter(feed, store=evaluating)
        hub.join(feed)
        await elsewhere.counts(BOB, [room_id])

        evaluating.now = unread.duty

        assert (await elsewhere.counts(BOB, [room_id]))[room_id].main == (1, 0)


@attrs.define
class UnsteadyDatabase:
    """A database that is unavailable at times."""

    real: Database
    is_unavailable: bool = False
    refused: trio.Event = attrs.Factory(trio.Event)

    @property
    def engine(self) -> Engine:
        return self.real.engine

    @property
    def dialect(self) -> Dialect:
        return self.real.dialect

    def check(self) -> None:
        if self.is_unavailable:
            self.refused.set()
            raise DatabaseUnavailable("unavailable")

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.check()
        return await self.real.read(unit, *args, **kwargs)

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.real.read_snapshot(unit, *args, **kwargs)

    def load(self) -> DatabaseLoad:
        return self.real.load()

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.real.read_long(unit, *args, **kwargs)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.check()
        return await self.real.write(unit, *args, **kwargs)


async def test_results_that_cannot_be_stored_are_stored_later(database: Database) -> None:
    async with open_world(database) as world:
        world.database = unsteady = UnsteadyDatabase(database)
        async with open_unread(world) as unread:
            room_id = await world.create_room(ALICE, join=[BOB])
            unsteady.is_unavailable = True
            await say(world, room_id)
            with trio.fail_after(60):
                await unsteady.refused.wait()
            unsteady.is_unavailable = False

            await say(world, room_id)
            with trio.fail_after(60):
                assert await unread.count(BOB, room_id) == (2, 0)

    async with open_world(database) as world, open_unread(world) as unread:
        assert await unread.count(BOB, room_id) == (2, 0)


async def test_replaced_evaluation_stores_nothing(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        with pytest.RaisesGroup(WriterReplaced, flatten_subgroups=True):
            async with open_unread(world) as unread:
                await unread.settle()
                before = await database.read(storage.load_position)
                await database.write(stream_log.take_over, UNREAD.name, "main", "another life")
                await say(world, room_id)
                with trio.fail_after(60):
                    await trio.sleep_forever()

    assert await database.read(storage.load_position) == before
