"""Events in the client format."""

from typing import Any

import orjson
import pytest

from hs.core.ids import EventID, UserID
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.read.event_forms import with_fields
from hs.services.rooms.store.aggregations import AggregationStore
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from tests.support.reading import ReadingScene, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world, txn_key
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet


def reply(sender: UserID, rel_type: str, parent: EventID, **content: Any) -> Draft:
    relation = {"rel_type": rel_type, "event_id": parent}
    return Draft(
        "m.room.message",
        sender,
        {"msgtype": "m.text", "body": "child", **content, "m.relates_to": relation},
    )


async def test_message_has_the_specified_fields(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, join=[BOB])
    sent = await world.send(room_id, ALICE, "hello")
    world.clock.advance(5)

    (event,) = await reading.see(BOB, sent.event_id)

    assert event == {
        "type": "m.room.message",
        "sender": ALICE,
        "content": {"msgtype": "m.text", "body": "hello"},
        "event_id": sent.event_id,
        "origin_server_ts": world.clock.now_ms() - 5,
        "room_id": room_id,
        "unsigned": {"age": 5, "membership": "join"},
    }


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_state_event_has_prev_content(world: World, version: str) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, version=version)
    first = await world.set_state(room_id, ALICE, "m.room.name", {"name": "one"})
    second = await world.set_state(room_id, ALICE, "m.room.name", {"name": "two"})
    create = next(row for _, row in world.seen if row.type == "m.room.create")

    events = await reading.see(ALICE, first.event_id, second.event_id, EventID(create.event_id))

    assert "prev_content" not in events[0]["unsigned"]
    assert events[1]["unsigned"]["prev_content"] == {"name": "one"}
    assert events[1]["unsigned"]["replaces_state"] == first.event_id
    assert events[2]["room_id"] == room_id
    assert events[2]["state_key"] == ""


async def test_prev_content_of_a_redacted_event_is_redacted(database: Database) -> None:
    async with open_world(database) as world:
        reading = readers_of(world)
        room_id = await world.create_room(ALICE)
        first = await world.set_state(room_id, ALICE, "m.room.name", {"name": "one"})
        second = await world.set_state(room_id, ALICE, "m.room.name", {"name": "two"})
        await reading.see(ALICE, second.event_id)
        await world.redact(room_id, ALICE, first.event_id)
        (kept,) = await reading.see(ALICE, second.event_id)
    async with open_world(database) as world:
        (read,) = await readers_of(world).see(ALICE, second.event_id)

    assert kept == read
    assert kept["unsigned"]["prev_content"] == {}


@pytest.mark.parametrize("version", ["10", "11"])
async def test_redacted_event_has_redacted_because(world: World, version: str) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, version=version)
    sent = await world.send(room_id, ALICE, "secret")
    await reading.see(ALICE, sent.event_id)
    redaction = await world.redact(room_id, ALICE, sent.event_id)

    gone, because = await reading.see(ALICE, sent.event_id, redaction.event_id)

    assert gone["content"] == {}
    assert gone["unsigned"]["redacted_because"]["event_id"] == redaction.event_id
    # Old and new clients each find it where they look.
    assert because["redacts"] == because["content"]["redacts"] == sent.event_id


async def test_only_the_sending_device_gets_its_transaction_id(database: Database) -> None:
    async def check(reading: ReadingScene) -> None:
        (own,) = await reading.see(ALICE, sent.event_id, device_id="PHONE")
        (other,) = await reading.see(ALICE, sent.event_id, device_id="LAPTOP")
        (bobs,) = await reading.see(BOB, sent.event_id, device_id="PHONE")
        assert own["unsigned"]["transaction_id"] == "t1"
        assert "transaction_id" not in other["unsigned"]
        assert "transaction_id" not in bobs["unsigned"]

    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        sent = await world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, "t1", "PHONE"))
        await check(readers_of(world))
    async with open_world(database) as world:
        await check(readers_of(world))


async def test_latest_edit_by_the_sender_is_bundled(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, join=[BOB])
    sent = await world.send(room_id, ALICE, "hello")
    new = {"msgtype": "m.text", "body": "new"}
    assert "m.relations" not in (await reading.see(BOB, sent.event_id))[0]["unsigned"]
    edit = reply(ALICE, "m.replace", sent.event_id, **{"m.new_content": new})
    world.clock.advance(10)
    (appended,) = await world.append(room_id, edit)
    forged = reply(BOB, "m.replace", sent.event_id, **{"m.new_content": new})
    world.clock.advance(10)
    await world.append(room_id, forged)

    (event,) = await reading.see(BOB, sent.event_id)
    await world.redact(room_id, ALICE, appended.event_id)
    (after,) = await reading.see(BOB, sent.event_id)

    assert event["unsigned"]["m.relations"]["m.replace"]["event_id"] == appended.event_id
    assert event["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"] == new
    assert "m.relations" not in after["unsigned"]


async def test_thread_summary_depends_on_the_user(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    root = (await world.send(room_id, ALICE, "root")).event_id
    await world.append(room_id, reply(BOB, "m.thread", root))
    (last,) = await world.append(room_id, reply(CAROL, "m.thread", root))
    await reading.ignore(BOB, CAROL)

    threads = [
        (await reading.see(user_id, root))[0]["unsigned"]["m.relations"]["m.thread"]
        for user_id in (ALICE, CAROL)
    ]

    assert [thread["count"] for thread in threads] == [2, 2]
    assert [thread["latest_event"]["event_id"] for thread in threads] == [last.event_id] * 2
    assert [thread["current_user_participated"] for thread in threads] == [True, True]


async def test_replies_of_ignored_users_do_not_count(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    root = (await world.send(room_id, ALICE, "root")).event_id
    (first,) = await world.append(room_id, reply(BOB, "m.thread", root))
    await world.append(room_id, reply(CAROL, "m.thread", root))
    await reading.ignore(BOB, CAROL)

    (event,) = await reading.see(BOB, root)

    thread = event["unsigned"]["m.relations"]["m.thread"]
    assert thread["count"] == 1
    assert thread["latest_event"]["event_id"] == first.event_id
    assert thread["current_user_participated"] is True


async def test_many_threads_with_ignored_users_need_one_read(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_world(counting) as world:
        reading = readers_of(world)
        room_id = await world.create_room(ALICE, join=[BOB])
        roots = [(await world.send(room_id, ALICE, str(number))).event_id for number in range(4)]
        for root in roots:
            await world.append(room_id, reply(ALICE, "m.thread", root))
            await world.append(room_id, reply(BOB, "m.thread", root))
        await reading.ignore(ALICE, BOB)
        await reading.see(ALICE, *roots)
        await wait_until_quiet(world.process)
        count.reads = 0

        seen = await reading.see(ALICE, *roots)

        assert count.reads == 1
        assert [event["unsigned"]["m.relations"]["m.thread"]["count"] for event in seen] == [1] * 4


async def test_redacted_reference_is_not_bundled(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE)
    root = (await world.send(room_id, ALICE, "root")).event_id
    (first,) = await world.append(room_id, reply(ALICE, "m.reference", root))
    (second,) = await world.append(room_id, reply(ALICE, "m.reference", root))

    (before,) = await reading.see(ALICE, root)
    await world.redact(room_id, ALICE, first.event_id)
    (after,) = await reading.see(ALICE, root)

    chunk = before["unsigned"]["m.relations"]["m.reference"]["chunk"]
    assert {event["event_id"] for event in chunk} == {first.event_id, second.event_id}
    chunk = after["unsigned"]["m.relations"]["m.reference"]["chunk"]
    assert chunk == [{"event_id": second.event_id}]


async def test_event_fields_filter_keeps_only_those_fields(world: World) -> None:
    reading = readers_of(world)
    room_id = await world.create_room(ALICE)
    sent = await world.send(room_id, ALICE, "hello")
    (stored,) = (await world.events.get([sent.event_id])).values()
    viewer = reading.rendering.viewer(Requester(ALICE))
    rendered = reading.rendering.timeline_event(stored, viewer, "join", room_id=False)

    kept = orjson.loads(with_fields(rendered, [("content", "body"), ("sender",)]))

    assert kept == {"content": {"body": "hello"}, "sender": ALICE}


async def test_redaction_drops_only_the_parents_aggregations(
    database: Database,
) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        root, other = [await world.send(room_id, ALICE, text) for text in ("root", "other")]
        first, _ = await world.append(
            room_id,
            reply(BOB, "m.thread", root.event_id),
            reply(BOB, "m.thread", root.event_id),
        )
        await world.append(room_id, reply(BOB, "m.thread", other.event_id))
        # It has read no event yet, so it cannot look up the parent of the redacted event.
        aggregates = AggregationStore(
            world.database, world.feed, EventStore(world.database, world.feed)
        )
        before = await aggregates.load([root.event_id, other.event_id])

        await world.redact(room_id, ALICE, first.event_id)

        assert [each.thread and each.thread.count for each in before.values()] == [2, 1]
        assert aggregates.get_nowait(root.event_id) is None
        assert aggregates.get_nowait(other.event_id) == before[other.event_id]
        (after,) = (await aggregates.load([root.event_id])).values()
        assert after.thread is not None
        assert after.thread.count == 1
