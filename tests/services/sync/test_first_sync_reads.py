"""A first sync of many rooms reads them together, and no event twice."""

from typing import Any

from hs.services.sync.rooms_section import ROOMS_AT_ONCE
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, member, message
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet
from tests.support.syncing import Syncing, bodies, open_syncing

ROOMS = 2 * ROOMS_AT_ONCE
MESSAGES = 15


async def add_rooms(scene: Syncing, number: int) -> None:
    for _ in range(number):
        room_id = await scene.world.create_room(BOB)
        texts = [message(BOB, f"message {text}") for text in range(MESSAGES)]
        await scene.world.append(room_id, member(ALICE, "join"), *texts)


async def test_first_sync_reads_timelines_with_their_events(database: Database) -> None:
    async with open_syncing(database) as scene:
        await add_rooms(scene, ROOMS)
        await wait_until_quiet(scene.process)
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)

    async with open_syncing(counting) as scene:
        await wait_until_quiet(scene.process)
        count.units.clear()
        answer = await scene.sync(ALICE)

    rooms = answer["rooms"]["join"].values()
    assert len(rooms) == ROOMS
    assert all(bodies(room)[-1] == f"message {MESSAGES - 1}" for room in rooms)
    slices = ROOMS // ROOMS_AT_ONCE
    assert count.units.count("load_timelines_of_events") == slices
    assert "find" not in count.units


async def test_redacted_events_of_a_first_sync_are_redacted(database: Database) -> None:
    async with open_syncing(database) as scene:
        room_id = await scene.world.create_room(BOB, join=[ALICE])
        sent = await scene.world.send(room_id, BOB, "secret")
        await scene.world.redact(room_id, BOB, sent.event_id)
        for number in range(5):
            await scene.world.send(room_id, BOB, f"message {number}")

    async with open_syncing(database) as scene:
        answer = await scene.sync(ALICE)

    events = answer["rooms"]["join"][room_id]["timeline"]["events"]
    redacted = next(event for event in events if event["event_id"] == sent.event_id)
    assert redacted["content"] == {}
    assert redacted["unsigned"]["redacted_because"]["sender"] == BOB
