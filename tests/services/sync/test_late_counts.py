"""Unread counts of sync that were sent before push rules were evaluated, and are corrected."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hs.core.ids import RoomID
from hs.core.streams import UNREAD
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import InProcTransport
from hs.storage.database import Database
from tests.support.composition import Neighbourhood
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import Sliding
from tests.support.syncing import Syncing, bodies, main_and_reader, news, open_syncing

SOON_S = 60.0
LONG_MS = 300_000


@attrs.define(eq=False)
class HoldingTransport(InProcTransport):
    """Holds back what is evaluated here from other processes, if it is to."""

    is_holding: bool = False
    held: list[Batch[Any]] = attrs.Factory(list)

    def publish(self, batch: Batch[Any]) -> None:
        if self.is_holding and batch.stream is UNREAD:
            self.feed.deliver(batch)
            self.held.append(batch)
        else:
            super().publish(batch)

    def release(self) -> None:
        self.is_holding = False
        for batch in self.held:
            for feed in self._hub.feeds():
                if feed is not self.feed:
                    feed.deliver(batch)
        self.held.clear()


@attrs.define(eq=False)
class HoldingNeighbourhood(Neighbourhood):
    """Processes connected by such transports, in the order in which they started."""

    transports: list[HoldingTransport] = attrs.Factory(list)

    def make_transport(self, feed: Feed) -> HoldingTransport:
        transport = HoldingTransport(feed, self.hub)
        self.transports.append(transport)
        return transport


@attrs.frozen
class Scene:
    """A process that evaluates push rules, and one that does not; Bob syncs there."""

    main: Syncing
    reader: Syncing
    neighbours: HoldingNeighbourhood

    def hold(self) -> None:
        """Let the evaluation be late at the reader."""
        self.neighbours.transports[0].is_holding = True

    def release(self) -> None:
        """Let what was evaluated arrive."""
        self.neighbours.transports[0].release()

    async def sent_while_late(self, room_id: RoomID) -> str:
        """Send a message and return the token of a response without its count."""
        since = (await self.reader.sync(BOB))["next_batch"]
        self.hold()
        await self.main.world.send(room_id, ALICE, "late")
        with trio.fail_after(SOON_S):
            answer = await self.reader.sync(BOB, since, timeout_ms=LONG_MS)
        assert bodies(answer["rooms"]["join"][room_id]) == ["late"]
        assert counts(answer) == {room_id: 1}
        token: str = answer["next_batch"]
        return token


def counts(answer: dict[str, Any]) -> dict[str, int]:
    """Return the counts of a response by room."""
    rooms = answer.get("rooms", {}).get("join", {})
    return {
        room_id: room["unread_notifications"]["notification_count"]
        for room_id, room in rooms.items()
    }


@asynccontextmanager
async def open_scene(database: Database) -> AsyncIterator[Scene]:
    neighbours = HoldingNeighbourhood()
    for_main, for_reader = main_and_reader()
    async with (
        open_syncing(database, for_main, neighbours=neighbours) as main,
        open_syncing(database, for_reader, neighbours=neighbours) as reader,
    ):
        yield Scene(main, reader, neighbours)


async def two_rooms(scene: Scene) -> tuple[RoomID, RoomID]:
    """Create two rooms with an unread message each."""
    world = scene.main.world
    first, second = [await world.create_room(ALICE, join=[BOB]) for _ in range(2)]
    for room_id in (first, second):
        await world.send(room_id, ALICE, "early")
    return first, second


async def test_count_that_was_late_is_in_the_next_response(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id, _ = await two_rooms(scene)
        since = await scene.sent_while_late(room_id)
        still_late = await scene.reader.sync(BOB, since)

        scene.release()
        answer = await scene.reader.sync(BOB, since)
        again = await scene.reader.sync(BOB, still_late["next_batch"])
        later = await scene.reader.sync(BOB, answer["next_batch"])

        assert news(still_late) == {}
        assert counts(answer) == counts(again) == {room_id: 2}
        assert bodies(answer["rooms"]["join"][room_id]) == []
        assert news(later) == {}


async def test_count_that_was_late_ends_a_long_poll(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id, _ = await two_rooms(scene)
        since = await scene.sent_while_late(room_id)
        answers: list[dict[str, Any]] = []

        async def poll() -> None:
            answers.append(await scene.reader.sync(BOB, since, timeout_ms=LONG_MS))

        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                while not scene.reader.notifier.waiting:
                    await trio.lowlevel.checkpoint()
                scene.release()

        assert counts(answers[0]) == {room_id: 2}


async def test_presence_of_strangers_does_not_make_a_late_count_forgotten(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        room_id, _ = await two_rooms(scene)
        since = await scene.sent_while_late(room_id)
        await scene.main.set_presence(CAROL, "online")
        still_late = await scene.reader.sync(BOB, since)

        scene.release()
        answer = await scene.reader.sync(BOB, still_late["next_batch"])

        assert news(still_late) == {}
        assert still_late["next_batch"] != since
        assert counts(answer) == {room_id: 2}


async def test_process_that_does_not_know_what_was_late_sends_rooms_with_events_since(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        room_id, _ = await two_rooms(scene)
        since = await scene.sent_while_late(room_id)

        answer = await scene.main.sync(BOB, since)
        later = await scene.main.sync(BOB, answer["next_batch"])

        assert counts(answer) == {room_id: 2}
        assert news(later) == {}


async def test_first_response_with_a_late_count_is_corrected(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id, other_room_id = await two_rooms(scene)
        await scene.reader.sync(BOB)
        scene.hold()
        await scene.main.world.send(room_id, ALICE, "late")
        first = await scene.reader.sync(BOB, device_id="OTHER")

        scene.release()
        answer = await scene.reader.sync(BOB, first["next_batch"], device_id="OTHER")

        assert counts(first) == {room_id: 1, other_room_id: 1}
        assert counts(answer) == {room_id: 2}


async def test_count_that_is_not_late_is_sent_once(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(BOB))["next_batch"]
        await s.world.send(room_id, ALICE, "hello")

        answer = await s.sync(BOB, since)
        later = await s.sync(BOB, answer["next_batch"])

        assert counts(answer) == {room_id: 1}
        assert "-" not in answer["next_batch"]
        assert news(later) == {}


async def test_count_that_was_late_ends_a_long_poll_of_sliding_sync(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id, _ = await two_rooms(scene)
        sliding = Sliding(scene.reader.world)
        first = await sliding.sync(BOB)
        scene.hold()
        await scene.main.world.send(room_id, ALICE, "late")
        second = await sliding.sync(BOB, first["pos"])
        answers: list[dict[str, Any]] = []

        async def poll() -> None:
            answers.append(await sliding.sync(BOB, second["pos"], timeout_ms=LONG_MS))

        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                while not sliding.notifier.waiting:
                    await trio.lowlevel.checkpoint()
                scene.release()
        last = await sliding.sync(BOB, answers[0]["pos"])

        assert second["rooms"][room_id]["notification_count"] == 1
        assert answers[0]["rooms"].keys() == {room_id}
        assert answers[0]["rooms"][room_id]["notification_count"] == 2
        assert "timeline" not in answers[0]["rooms"][room_id]
        assert last["rooms"] == {}
