"""A first sync of many rooms reads them together, and no event twice."""

from typing import Any

from hs.core.events import event_types
from hs.core.ids import EventID, UserID
from hs.services.rooms.append.drafts import Draft
from hs.services.sync.rooms_section import ROOMS_AT_ONCE
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, member, message, txn_key
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet
from tests.support.syncing import Syncing, bodies, open_syncing

ROOMS = 2 * ROOMS_AT_ONCE
MESSAGES = 15
IGNORED = "m.ignored_user_list"
LAZY = {"room": {"state": {"lazy_load_members": True}}}


async def add_rooms(scene: Syncing, number: int) -> None:
    for _ in range(number):
        name = Draft(event_types.NAME, BOB, {"name": "a room"}, "")
        room_id = await scene.world.create_room(BOB, state=[name])
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
    assert count.units.count("find_pdus_of_states") == slices
    assert count.units.count("member_counts") == slices
    assert not {"find", "find_pdus", "load_aggregations", "list_present_members"} & {*count.units}


async def test_first_sync_parses_no_messages(database: Database) -> None:
    async with open_syncing(database) as scene:
        await add_rooms(scene, 3)
        await wait_until_quiet(scene.process)

    async with open_syncing(database) as scene:
        answer = await scene.sync(ALICE)
        rooms = answer["rooms"]["join"].values()
        shown = [event for room in rooms for event in room["timeline"]["events"]]
        parsed = scene.world.events.cache.cached_among(event["event_id"] for event in shown)

    assert shown
    assert not parsed


async def test_first_sync_is_the_same_after_a_restart(database: Database) -> None:
    async with open_syncing(database) as scene:
        world = scene.world
        room_id = await world.create_room(BOB, join=[ALICE, CAROL])
        await scene.set_account_data(ALICE, IGNORED, {"ignored_users": {CAROL: {}}})
        edited = await world.send(room_id, BOB, "first")
        await world.append(room_id, _related(BOB, "m.replace", edited.event_id))
        await world.append(room_id, _related(BOB, "m.thread", edited.event_id))
        redacted = await world.send(room_id, BOB, "secret")
        await world.redact(room_id, BOB, redacted.event_id)
        await world.send(room_id, CAROL, "from a user who is ignored")
        for topic in ("one", "two"):
            await world.append(room_id, Draft(event_types.TOPIC, BOB, {"topic": topic}, ""))
        await world.append(room_id, message(ALICE, "my own", txn_key(ALICE, room_id, "txn")))
        before = await scene.sync(ALICE)
        before_lazily = await scene.sync(ALICE, filter=LAZY)

    async with open_syncing(database) as scene:
        lazily = await scene.sync(ALICE, filter=LAZY)
        after = await scene.sync(ALICE)

    events = after["rooms"]["join"][room_id]["timeline"]["events"]
    assert events == before["rooms"]["join"][room_id]["timeline"]["events"]
    assert events[-1]["unsigned"]["transaction_id"] == "txn"
    assert _without_order(after) == _without_order(before)
    assert _without_order(lazily) == _without_order(before_lazily)


async def test_room_whose_name_was_redacted_has_heroes_after_a_restart(database: Database) -> None:
    async with open_syncing(database) as scene:
        room_id = await scene.world.create_room(BOB, join=[ALICE])
        name = Draft(event_types.NAME, BOB, {"name": "a room"}, "")
        (named,) = await scene.world.append(room_id, name)
        await scene.world.redact(room_id, BOB, named.event_id)

    async with open_syncing(database) as scene:
        answer = await scene.sync(ALICE)

    assert answer["rooms"]["join"][room_id]["summary"]["m.heroes"] == [BOB]


def _related(sender: UserID, rel_type: str, event_id: EventID) -> Draft:
    new = {"msgtype": "m.text", "body": "more"}
    relation = {"rel_type": rel_type, "event_id": event_id}
    content = {**new, "m.new_content": new, "m.relates_to": relation}
    return Draft(event_types.MESSAGE, sender, content)


def _without_order(answer: dict[str, Any]) -> Any:
    """Return the rooms of a response with their state in an order that does not change."""
    rooms = answer["rooms"]["join"]
    for room in rooms.values():
        room["state"]["events"].sort(key=lambda event: event["event_id"])
    return rooms


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
