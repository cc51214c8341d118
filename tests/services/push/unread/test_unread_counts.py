"""Unread counts: what counts, what reading changes, and that a restart changes nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.stream_def import ANY_PROCESS
from hs.core.streams import UNREAD
from hs.lib.clock import FixedClock
from hs.repl.generations import WriterReplaced
from hs.services.ephemeral.room_receipts import READ_PRIVATE
from hs.services.push.evaluation import result_store
from hs.services.rooms.append.drafts import Draft
from hs.storage import stream_log
from hs.storage.database import Database, DatabaseUnavailable
from hs.storage.push import push_rules as storage
from tests.support.composition import Neighbourhood
from tests.support.reading import readers_of
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world
from tests.support.unread import UnreadScene, open_unread, settings_of


async def say(world: World, room_id: RoomID, sender: UserID = ALICE, **content: Any) -> EventID:
    draft = Draft(event_types.MESSAGE, sender, {"msgtype": "m.text", "body": "hi", **content})
    return (await world.append(room_id, draft))[0].event_id


def in_thread(root: EventID) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


def mentioning(*user_ids: UserID) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": list(user_ids)}}


async def test_messages_of_others_are_unread_until_a_receipt(database: Database) -> None:
    async with open_unread(database) as unread:
        world = unread.world
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
    async with open_unread(database) as unread:
        world = unread.world
        room_id = await world.create_room(ALICE, join=[BOB])
        call, ring = event_types.GROUP_CALL, {"m.intent": "m.ring"}

        for content in (ring, {**ring, "m.name": "Tea"}, {**ring, "m.terminated": "left"}, ring):
            await world.set_state(room_id, ALICE, call, content, "call")

        assert await unread.count(BOB, room_id) == (2, 0)


async def test_messages_of_ignored_users_do_not_count(database: Database) -> None:
    async with open_unread(database) as unread:
        world = unread.world
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        readers = readers_of(world)
        await readers.ignore(BOB, ALICE)
        await say(world, room_id, ALICE)
        while_ignored = [await unread.count(user, room_id) for user in (BOB, CAROL)]
        await readers.ignore(BOB)
        await say(world, room_id, ALICE)

        assert while_ignored == [(0, 0), (1, 0)]
        assert await unread.count(BOB, room_id) == (1, 0)


async def test_mentions_highlight_for_the_mentioned_users(database: Database) -> None:
    async with open_unread(database) as unread:
        world = unread.world
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
    async with open_unread(database) as unread:
        world = unread.world
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
    async with open_unread(database) as unread:
        world = unread.world
        room_id = await world.create_room(ALICE, join=[BOB])
        event_id = await say(world, room_id, **mentioning(BOB))
        await say(world, room_id)
        assert await unread.count(BOB, room_id) == (2, 1)

        await world.redact(room_id, ALICE, event_id)

        assert await unread.count(BOB, room_id) == (1, 0)
        async with unread.another_process() as fresh:
            assert await fresh.count(BOB, room_id) == (1, 0)


async def test_threads_are_counted_and_read_separately(database: Database) -> None:
    async with open_unread(database) as unread:
        world = unread.world
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
        async with unread.another_process() as fresh:
            counts = (await fresh.counting.counts(BOB, [room_id]))[room_id]
            assert (counts.main, counts.threads) == ((0, 0), {root: (1, 0)})
        await unread.read(BOB, room_id, plain)
        assert await unread.threads(BOB, room_id) == {}


async def test_own_push_rules_change_what_counts(database: Database) -> None:
    async with open_unread(database) as unread:
        world = unread.world
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
    async with open_unread(database) as unread:
        world = unread.world
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
    async with open_unread(database) as unread:
        world = unread.world
        room_id = await world.create_room(ALICE, join=[BOB])
        await say(world, room_id)
        await say(world, room_id, **mentioning(BOB))
        before = await unread.count(BOB, room_id)

    async with open_unread(database) as unread:
        world = unread.world
        assert await unread.count(BOB, room_id) == before == (2, 1)
        await say(world, room_id)
        assert await unread.count(BOB, room_id) == (3, 1)


async def test_events_sent_while_no_process_evaluates_are_counted_later(database: Database) -> None:
    async with open_writer(database) as (world, neighbours):
        room_id = await world.create_room(ALICE, join=[BOB])
        root = await say(world, room_id)
        await say(world, room_id, **in_thread(root))
        gone = await say(world, room_id)
        await world.redact(room_id, ALICE, gone)

    async with open_unread(database, MAIN, neighbours) as unread:
        assert await unread.threads(BOB, room_id) == {"main": 1, root: 1}
        # Alice has read by sending messages, and before that by joining.
        assert await unread.count(ALICE, room_id) == (0, 0)


async def test_count_includes_notifications_dropped_from_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.push.unread.recent_notifications.MAX_ROWS", 8)
    async with open_unread(database) as unread:
        world = unread.world
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
    async with open_unread(database) as unread:
        world = unread.world
        room_id = await world.create_room(ALICE, join=[BOB])
        for _ in range(3):
            await say(world, room_id)
    recorded: Any = Recorded(database)
    async with open_unread(recorded) as unread:
        world = unread.world
        assert await unread.count(BOB, room_id) == (3, 0)
        asked = recorded.units.count("count_unread")

        for _ in range(5):
            await say(world, room_id, BOB)
            assert await unread.counting.counts(BOB, [room_id]) == {}
            await say(world, room_id)
            assert await unread.count(BOB, room_id) == (1, 0)

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
    async with open_unread(database) as unread:
        world = unread.world
        rooms = [await world.create_room(ALICE, join=[BOB]) for _ in range(4)]
        for number, room_id in enumerate(rooms):
            for _ in range(number):
                await say(world, room_id)
        await unread.settle()

        async with unread.another_process() as fresh:
            found = await fresh.counting.counts(BOB, rooms)

        counted = {room_id: count.main.notifications for room_id, count in found.items()}
        assert counted == {rooms[1]: 1, rooms[2]: 2, rooms[3]: 3}
        assert await unread.counting.badge(BOB, rooms, by_room=True) == 3
        assert await unread.counting.badge(BOB, rooms, by_room=False) == 6


async def test_another_process_counts_the_same(database: Database) -> None:
    async with open_unread(database) as unread:
        world = unread.world
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        await say(world, room_id)
        await unread.settle()
        async with unread.another_process() as elsewhere:
            assert await elsewhere.count(BOB, room_id) == (1, 0)
            event_id = await say(world, room_id, **mentioning(BOB))
            await say(world, room_id)
            assert await elsewhere.count(BOB, room_id) == (3, 1)
            assert await elsewhere.count(CAROL, room_id) == (3, 0)
            await unread.read(BOB, room_id, event_id)
            assert await elsewhere.count(BOB, room_id) == (1, 0)
            await world.redact(room_id, ALICE, event_id)
            assert await elsewhere.count(CAROL, room_id) == (2, 0)


MAIN, READER = (settings_of(name, writer="writer") for name in ("main", "reader"))


@asynccontextmanager
async def open_writer(database: Database) -> AsyncIterator[tuple[World, Neighbourhood]]:
    """Start the process that writes events, beside which others evaluate and count."""
    neighbours = Neighbourhood()
    settings = settings_of("writer", writer="writer")
    async with open_world(database, settings, neighbours=neighbours) as world:
        yield world, neighbours


async def test_restarted_evaluation_neither_loses_nor_doubles_counts(
    database: Database,
) -> None:
    async with (
        open_writer(database) as (world, neighbours),
        open_unread(database, READER, neighbours) as elsewhere,
    ):
        room_id = await world.create_room(ALICE, join=[BOB])
        async with open_unread(database, MAIN, neighbours):
            await say(world, room_id)
            assert await elsewhere.count(BOB, room_id) == (1, 0)
        await say(world, room_id)
        later = FixedClock(world.clock.now_ms() + 1000)
        async with open_unread(database, MAIN, neighbours, clock=later) as unread:
            await say(world, room_id)
            await unread.settle()
            assert await elsewhere.count(BOB, room_id) == (3, 0)


def failed_flushes(elsewhere: UnreadScene) -> int:
    cluster = elsewhere.world.process.base.cluster
    assert cluster is not None
    return cluster.clients.calls["EvaluationStore.flush", "main"].failures


async def test_counts_are_answered_while_no_process_evaluates(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_writer(database) as (world, neighbours):
        room_id = await world.create_room(ALICE, join=[BOB])
        async with open_unread(database, MAIN, neighbours) as unread:
            await say(world, room_id)
            await unread.settle()
        neighbours.sender.disconnect("main")

        async with open_unread(database, READER, neighbours) as elsewhere:
            await say(world, room_id)

            assert await elsewhere.count(BOB, room_id) == (1, 0)
            assert await elsewhere.count(BOB, room_id) == (1, 0)
            assert failed_flushes(elsewhere) == 1
            later = FixedClock(world.clock.now_ms() + 1000)
            monkeypatch.setattr("hs.services.push.unread.stored_progress.GUESS_S", 0.0)
            async with open_unread(database, MAIN, neighbours, clock=later):
                await say(world, room_id)
                with trio.fail_after(60):
                    while await elsewhere.count(BOB, room_id) != (3, 0):
                        await trio.lowlevel.checkpoint()


async def test_counts_are_exact_once_the_evaluating_process_is_reachable_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.push.unread.stored_progress.GUESS_S", 0.0)
    async with open_unread(database) as unread:
        room_id = await unread.world.create_room(ALICE, join=[BOB])
        await unread.settle()
        # Announced but not stored, and before the other process listens.
        await say(unread.world, room_id)
        cluster = unread.world.process.base.cluster
        assert cluster is not None
        unread.neighbours.sender.disconnect("main")
        async with unread.another_process() as elsewhere:
            await elsewhere.count(BOB, room_id)

            unread.neighbours.sender.connect("main", cluster.server)

            assert await elsewhere.count(BOB, room_id) == (1, 0)


@attrs.define
class UnsteadyDatabase:
    """A database that at times cannot store the results of the evaluation."""

    real: Database
    is_unavailable: bool = False
    refused: trio.Event = attrs.Factory(trio.Event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def write(self, unit: Any, *args: Any) -> Any:
        if self.is_unavailable and unit.__module__ == result_store.__name__:
            self.refused.set()
            raise DatabaseUnavailable("unavailable")
        return await self.real.write(unit, *args)


async def test_results_that_cannot_be_stored_are_stored_later(database: Database) -> None:
    unsteady: Any = UnsteadyDatabase(database)
    async with open_unread(unsteady) as unread:
        room_id = await unread.world.create_room(ALICE, join=[BOB])
        unsteady.is_unavailable = True
        await say(unread.world, room_id)
        with trio.fail_after(60):
            await unsteady.refused.wait()
        unsteady.is_unavailable = False

        await say(unread.world, room_id)
        with trio.fail_after(60):
            assert await unread.count(BOB, room_id) == (2, 0)

    async with open_unread(database) as unread:
        assert await unread.count(BOB, room_id) == (2, 0)


async def test_replaced_evaluation_stores_nothing(database: Database) -> None:
    with pytest.RaisesGroup(WriterReplaced, flatten_subgroups=True):
        async with open_unread(database) as unread:
            room_id = await unread.world.create_room(ALICE, join=[BOB])
            await unread.settle()
            before = await database.read(storage.load_position)
            await database.write(stream_log.take_over, UNREAD.name, ANY_PROCESS, "another life")
            await say(unread.world, room_id)
            with trio.fail_after(60):
                await trio.sleep_forever()

    assert await database.read(storage.load_position) == before
