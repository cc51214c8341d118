"""Receipts and read markers: what moves, who sees it, and what is refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest
import trio

from hs.core.errors import Forbidden, InvalidParam
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.repl.inproc import alone
from hs.repl.rows import ReceiptRow
from hs.repl.streams import RECEIPTS
from hs.repl.writers import TableWriter
from hs.services.ephemeral.read_markers import ReadingService
from hs.services.ephemeral.receipts import Receipts, ReceiptTable
from hs.services.ephemeral.room_receipts import FULLY_READ, READ, READ_PRIVATE
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.memberships import Memberships
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, SERVER, World, open_world

FOR_ALICE = Requester(ALICE, "A")
FOR_BOB = Requester(BOB, "B")


@attrs.define
class Markers:
    """Read markers in memory, and nobody who cares for activity."""

    held: dict[tuple[UserID, RoomID], EventID] = attrs.Factory(dict)

    async def fully_read(self, user_id: UserID, room_id: RoomID) -> EventID | None:
        return self.held.get((user_id, room_id))

    async def set_fully_read(self, user_id: UserID, room_id: RoomID, event_id: EventID) -> None:
        self.held[user_id, room_id] = event_id

    def note_active(self, user_id: UserID) -> None:
        """Do not care."""


@attrs.define(eq=False)
class Scene:
    """A room with Alice and Bob, and what they need to read."""

    world: World
    reading: ReadingService
    receipts: Receipts
    markers: Markers
    room_id: RoomID
    rows: list[ReceiptRow] = attrs.Factory(list)

    async def say(self, body: str = "hello", **relates_to: Any) -> EventID:
        content = {"msgtype": "m.text", "body": body}
        if relates_to:
            content["m.relates_to"] = relates_to  # type: ignore[assignment]  # plain JSON
        draft = Draft(event_types.MESSAGE, ALICE, content)
        return (await self.world.append(self.room_id, draft))[0].event_id

    async def seen_by(self, user_id: UserID, after: int = 0) -> Any:
        found = await self.receipts.in_rooms(user_id, [self.room_id], after, 0)
        content = found.get(self.room_id)
        return None if content is None else orjson.loads(content)


@asynccontextmanager
async def open_scene(database: Database) -> AsyncIterator[Scene]:
    async with open_world(database) as world, trio.open_nursery() as nursery:
        writer = TableWriter(RECEIPTS, "main", database, alone(world.feed), world.clock.now_ms)
        receipts = Receipts(database, world.feed)
        members = Memberships(database, world.feed, SERVER)
        await nursery.start(writer.run)
        markers = Markers()
        table = ReceiptTable(writer)
        reading = ReadingService(database, members, receipts, table, markers, world.clock, markers)
        room_id = await world.create_room(ALICE, join=[BOB])
        scene = Scene(world, reading, receipts, markers, room_id)
        world.feed.subscribe(
            RECEIPTS, lambda batch: scene.rows.extend(row for _, row in batch.rows)
        )
        yield scene
        nursery.cancel_scope.cancel()


async def test_a_receipt_is_seen_by_everybody_and_a_private_one_by_its_user(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.say()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ_PRIVATE, event_id)

        ts = scene.world.clock.now_ms()
        told = {BOB: {"ts": ts}}
        assert await scene.seen_by(ALICE) == {event_id: {READ: told}}
        assert await scene.seen_by(BOB) == {event_id: {READ: told, READ_PRIVATE: told}}


async def test_receipts_only_move_forward(database: Database) -> None:
    async with open_scene(database) as scene:
        first = await scene.say()
        second = await scene.say()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, second)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, first)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, second)

        assert [row.event_id for row in scene.rows] == [second]
        held = await scene.receipts.of_room(scene.room_id)
        # The cache knows it now, so that nobody is asked.
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, first)
        assert len(scene.rows) == 1
        assert held.read_up_to(BOB).everywhere == scene.rows[0].event_stream_id


async def test_only_what_moved_after_a_position_is_told(database: Database) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.say()
        await scene.reading.set_receipt(FOR_ALICE, scene.room_id, READ, event_id)
        position = scene.world.feed.position(RECEIPTS).most()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id)

        assert list((await scene.seen_by(ALICE, position))[event_id][READ]) == [BOB]
        assert scene.receipts.changed_rooms(position) == [scene.room_id]
        last = scene.world.feed.position(RECEIPTS).most()
        assert await scene.seen_by(ALICE, last) is None
        assert scene.receipts.changed_rooms(last) == []
        assert scene.receipts.changed_rooms(0) is not None


async def test_receipts_are_there_after_a_restart(database: Database) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.say()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id, "main")
        before = await scene.seen_by(ALICE)
        position = scene.world.feed.position(RECEIPTS).most()
        room_id = scene.room_id

    async with open_world(database) as world:
        receipts = Receipts(database, world.feed)
        found = await receipts.in_rooms(ALICE, [room_id], 0, 0)
        assert orjson.loads(found[room_id]) == before
        assert (await receipts.of_room(room_id)).read_up_to(BOB).threads.keys() == {"main"}
        assert position > 0
        assert receipts.changed_rooms(position - 1) in (None, [])


async def test_threads_have_receipts_of_their_own(database: Database) -> None:
    async with open_scene(database) as scene:
        root = await scene.say("root")
        reply = await scene.say("reply", rel_type="m.thread", event_id=root)
        reaction = await scene.say("edit", rel_type="m.replace", event_id=reply)
        other = await scene.say("apart")
        set_receipt = scene.reading.set_receipt

        for event_id, thread_id in ((root, "main"), (root, root), (reply, root), (reaction, root)):
            await set_receipt(FOR_BOB, scene.room_id, READ, event_id, thread_id)
        read = (await scene.receipts.of_room(scene.room_id)).read_up_to(BOB)
        assert read.threads.keys() == {"main", root}

        for event_id, thread_id in ((reply, "main"), (other, root), (root, "$nothing")):
            with pytest.raises(InvalidParam):
                await set_receipt(FOR_BOB, scene.room_id, READ, event_id, thread_id)


@pytest.mark.parametrize("thread_id", ["", 5, ["main"], "not an event"])
async def test_malformed_threads_are_refused(database: Database, thread_id: Any) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.say()

        with pytest.raises(InvalidParam):
            await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id, thread_id)


async def test_receipts_of_strangers_and_of_unknown_types_are_refused(database: Database) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.say()

        with pytest.raises(Forbidden):
            await scene.reading.set_receipt(Requester(CAROL), scene.room_id, READ, event_id)
        with pytest.raises(InvalidParam):
            await scene.reading.set_receipt(FOR_BOB, scene.room_id, "m.other", event_id)
        with pytest.raises(InvalidParam):
            await scene.reading.set_receipt(FOR_BOB, scene.room_id, FULLY_READ, event_id, "main")


async def test_a_receipt_for_an_event_of_another_room_does_nothing(database: Database) -> None:
    async with open_scene(database) as scene:
        elsewhere = await scene.world.create_room(ALICE)
        event_id = (await scene.world.send(elsewhere, ALICE)).event_id

        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, EventID("$unknown"))

        assert scene.rows == []


async def test_read_markers_move_forward_with_receipts(database: Database) -> None:
    async with open_scene(database) as scene:
        first = await scene.say()
        second = await scene.say()
        markers = {FULLY_READ: second, READ: second, READ_PRIVATE: first}
        await scene.reading.set_markers(FOR_BOB, scene.room_id, markers)
        await scene.reading.set_markers(FOR_BOB, scene.room_id, {FULLY_READ: first})

        assert scene.markers.held == {(BOB, scene.room_id): second}
        assert {(row.receipt_type, row.event_id) for row in scene.rows} == {
            (READ, second),
            (READ_PRIVATE, first),
        }
        with pytest.raises(InvalidParam):
            await scene.reading.set_markers(FOR_BOB, scene.room_id, {READ: 5})
