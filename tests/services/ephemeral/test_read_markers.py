"""Receipts and fully-read markers: changes, visibility and validation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest

from hs.core.errors import Forbidden, InvalidParam, NotFound, UserSuspended
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import RECEIPTS, ReceiptRow
from hs.services.ephemeral.read_markers import ReadingService
from hs.services.ephemeral.receipts import Receipts
from hs.services.ephemeral.room_receipts import FULLY_READ, READ, READ_PRIVATE
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

FOR_ALICE = Requester(ALICE, "A")
FOR_BOB = Requester(BOB, "B")


@attrs.frozen(eq=False)
class Scene:
    """A room with Alice and Bob, and the services for receipts and markers."""

    world: World
    room_id: RoomID
    rows: list[ReceiptRow] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.world.feed.subscribe(
            RECEIPTS, lambda batch: self.rows.extend(row for _, row in batch.rows)
        )

    @property
    def reading(self) -> ReadingService:
        return self.world.process.services.ephemeral.reading

    @property
    def receipts(self) -> Receipts:
        return self.world.process.services.ephemeral.receipts

    async def fully_read(self, user_id: UserID) -> EventID | None:
        account_data = self.world.process.services.core.accounts.account_data
        content = await account_data.content(user_id, self.room_id, "m.fully_read")
        return None if content is None else EventID(orjson.loads(content)["event_id"])

    async def send_message(self, body: str = "hello", **relates_to: Any) -> EventID:
        content = {"msgtype": "m.text", "body": body}
        if relates_to:
            content["m.relates_to"] = relates_to  # type: ignore[assignment]  # plain JSON
        draft = Draft(event_types.MESSAGE, ALICE, content)
        return (await self.world.append(self.room_id, draft))[0].event_id

    async def receipts_for(self, user_id: UserID, after: int = 0) -> Any:
        contents = await self.receipts.in_rooms(user_id, [self.room_id], after, 0)
        content = contents.get(self.room_id)
        return None if content is None else orjson.loads(content)


@asynccontextmanager
async def open_scene(database: Database) -> AsyncIterator[Scene]:
    async with open_world(database) as world:
        yield Scene(world, await world.create_room(ALICE, join=[BOB]))


async def test_receipt_is_visible_to_all_and_private_receipt_to_its_user(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ_PRIVATE, event_id)

        ts = scene.world.clock.now_ms()
        receipts = {BOB: {"ts": ts}}
        assert await scene.receipts_for(ALICE) == {event_id: {READ: receipts}}
        assert await scene.receipts_for(BOB) == {event_id: {READ: receipts, READ_PRIVATE: receipts}}


async def test_receipts_only_move_forward(database: Database) -> None:
    async with open_scene(database) as scene:
        first = await scene.send_message()
        second = await scene.send_message()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, second)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, first)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, second)

        assert [row.event_id for row in scene.rows] == [second]
        room_receipts = await scene.receipts.of_room(scene.room_id)
        # The receipt is cached now, so that the writer is not called.
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, first)
        assert len(scene.rows) == 1
        assert room_receipts.read_up_to(BOB).everywhere == scene.rows[0].event_stream_id


async def test_only_receipts_changed_after_a_position_are_returned(database: Database) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message()
        await scene.reading.set_receipt(FOR_ALICE, scene.room_id, READ, event_id)
        position = scene.world.feed.position(RECEIPTS).most()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id)

        assert list((await scene.receipts_for(ALICE, position))[event_id][READ]) == [BOB]
        last_position = scene.world.feed.position(RECEIPTS).most()
        assert await scene.receipts_for(ALICE, last_position) is None


async def test_receipts_survive_a_restart(database: Database) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message()
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id, "main")
        receipts_before = await scene.receipts_for(ALICE)
        position = scene.world.feed.position(RECEIPTS).most()
        room_id = scene.room_id

    async with open_world(database) as world:
        receipts = world.process.services.ephemeral.receipts
        contents = await receipts.in_rooms(ALICE, [room_id], 0, 0)
        assert orjson.loads(contents[room_id]) == receipts_before
        assert (await receipts.of_room(room_id)).read_up_to(BOB).threads.keys() == {"main"}
        assert position > 0


async def test_threads_have_separate_receipts(database: Database) -> None:
    async with open_scene(database) as scene:
        root = await scene.send_message("root")
        reply = await scene.send_message("reply", rel_type="m.thread", event_id=root)
        reaction = await scene.send_message("edit", rel_type="m.replace", event_id=reply)
        unthreaded = await scene.send_message("unthreaded")
        set_receipt = scene.reading.set_receipt

        for event_id, thread_id in ((root, "main"), (root, root), (reply, root), (reaction, root)):
            await set_receipt(FOR_BOB, scene.room_id, READ, event_id, thread_id)
        read_positions = (await scene.receipts.of_room(scene.room_id)).read_up_to(BOB)
        assert read_positions.threads.keys() == {"main", root}

        for event_id, thread_id in ((reply, "main"), (unthreaded, root), (root, "$nothing")):
            with pytest.raises(InvalidParam):
                await set_receipt(FOR_BOB, scene.room_id, READ, event_id, thread_id)


@pytest.mark.parametrize("thread_id", ["", 5, ["main"], "not an event"])
async def test_malformed_thread_ids_are_rejected(database: Database, thread_id: Any) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message()

        with pytest.raises(InvalidParam):
            await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id, thread_id)


async def test_receipts_of_non_members_and_of_unknown_types_are_rejected(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message()

        with pytest.raises(Forbidden):
            await scene.reading.set_receipt(Requester(CAROL), scene.room_id, READ, event_id)
        with pytest.raises(InvalidParam):
            await scene.reading.set_receipt(FOR_BOB, scene.room_id, "m.other", event_id)
        with pytest.raises(InvalidParam):
            await scene.reading.set_receipt(FOR_BOB, scene.room_id, FULLY_READ, event_id, "main")


async def test_receipt_for_an_event_of_another_room_is_ignored(database: Database) -> None:
    async with open_scene(database) as scene:
        other_room = await scene.world.create_room(ALICE)
        event_id = (await scene.world.send(other_room, ALICE)).event_id

        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id)
        await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, EventID("$unknown"))

        assert scene.rows == []


async def test_read_markers_move_forward_with_receipts(database: Database) -> None:
    async with open_scene(database) as scene:
        first = await scene.send_message()
        second = await scene.send_message()
        markers = {FULLY_READ: second, READ: second, READ_PRIVATE: first}
        await scene.reading.set_markers(FOR_BOB, scene.room_id, markers)
        await scene.reading.set_markers(FOR_BOB, scene.room_id, {FULLY_READ: first})

        assert [await scene.fully_read(user_id) for user_id in (ALICE, BOB)] == [None, second]
        assert {(row.receipt_type, row.event_id) for row in scene.rows} == {
            (READ, second),
            (READ_PRIVATE, first),
        }
        with pytest.raises(InvalidParam):
            await scene.reading.set_markers(FOR_BOB, scene.room_id, {READ: 5})


async def test_read_marker_at_an_event_that_is_not_in_the_room_is_not_found(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message()
        other_room = await scene.world.create_room(ALICE)
        elsewhere = (await scene.world.send(other_room, ALICE)).event_id

        for unknown in (EventID("$unknown"), elsewhere):
            for receipt_type in (FULLY_READ, READ):
                markers = {READ_PRIVATE: event_id, receipt_type: unknown}
                with pytest.raises(NotFound):
                    await scene.reading.set_markers(FOR_BOB, scene.room_id, markers)

        assert await scene.fully_read(BOB) is None
        assert scene.rows == []


async def test_suspended_user_moves_only_markers_that_others_do_not_see(database: Database) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message()
        bob = Requester(BOB, "B", suspended=True)

        with pytest.raises(UserSuspended):
            await scene.reading.set_receipt(bob, scene.room_id, READ, event_id)
        with pytest.raises(UserSuspended):
            await scene.reading.set_markers(
                bob, scene.room_id, {FULLY_READ: event_id, READ: event_id}
            )
        await scene.reading.set_markers(bob, scene.room_id, {FULLY_READ: event_id})
        await scene.reading.set_receipt(bob, scene.room_id, READ_PRIVATE, event_id)

        assert await scene.fully_read(BOB) == event_id
        assert [row.receipt_type for row in scene.rows] == [READ_PRIVATE]


async def test_event_without_replies_is_not_a_thread(database: Database) -> None:
    async with open_scene(database) as scene:
        event_id = await scene.send_message("no thread")

        with pytest.raises(InvalidParam):
            await scene.reading.set_receipt(FOR_BOB, scene.room_id, READ, event_id, event_id)
