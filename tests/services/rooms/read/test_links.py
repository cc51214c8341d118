"""Redactions, relations and threads as they are stored with new events."""

from typing import Any

import pytest

from hs.core.errors import Forbidden
from hs.core.ids import EventID, RoomID
from hs.core.versions import ROOM_VERSIONS
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.storage.database import Row, Tx
from tests.support.rooms import ALICE, BOB, CAROL, World

RELATIONS = (
    "SELECT event_id, parent_id, rel_type, aggregation_key FROM relations ORDER BY stream_id"
)
THREADS = "SELECT root_id, latest_event_id, replies FROM threads"


async def _rows(world: World, query: str) -> list[tuple[Any, ...]]:
    async def read(tx: Tx) -> list[Row]:
        return list(await tx.fetch(query))

    return [tuple(row) for row in await world.database.read(read)]


async def _reply(world: World, room_id: RoomID, root: EventID) -> AppendedEvent:
    relates = {"rel_type": "m.thread", "event_id": root}
    content = {"body": "reply", "msgtype": "m.text", "m.relates_to": relates}
    return (await world.append(room_id, Draft("m.room.message", BOB, content)))[0]


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_redaction_marks_its_target(world: World, version: str) -> None:
    room_id = await world.create_room(ALICE, version=version, join=[BOB])
    sent = await world.send(room_id, BOB, "secret")

    redaction = await world.redact(room_id, ALICE, sent.event_id)

    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    assert stored.redacted_by == redaction.event_id
    world.events.forget(sent.event_id)
    world.events._redactions.clear()
    reread = await world.events.get_one(sent.event_id)
    assert reread is not None
    assert reread.redacted_by == redaction.event_id
    assert world.seen[-1][1].redaction_applies


async def test_redacting_others_without_power_is_forbidden(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    sent = await world.send(room_id, BOB)

    with pytest.raises(Forbidden):
        await world.redact(room_id, CAROL, sent.event_id)

    await world.redact(room_id, BOB, sent.event_id)


async def test_first_redaction_stays_in_effect(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    sent = await world.send(room_id, BOB)
    first = await world.redact(room_id, BOB, sent.event_id)

    second = await world.redact(room_id, ALICE, sent.event_id)

    stored = await world.events.get_one(sent.event_id)
    assert second.event_id != first.event_id
    assert stored is not None
    assert stored.redacted_by == first.event_id


async def test_redacting_an_unknown_event_redacts_nothing(world: World) -> None:
    room_id = await world.create_room(ALICE)

    await world.redact(room_id, ALICE, EventID("$unknown"))

    assert not world.seen[-1][1].redaction_applies


async def test_redacting_the_name_removes_it_from_the_summary(world: World) -> None:
    room_id = await world.create_room(ALICE)
    named = await world.set_state(room_id, ALICE, "m.room.name", {"name": "Secret plans"})

    await world.redact(room_id, ALICE, named.event_id)

    assert await _rows(world, "SELECT name FROM room_summaries") == [(None,)]


async def test_relations_are_stored(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    sent = await world.send(room_id, ALICE)
    relates = {"rel_type": "m.annotation", "event_id": sent.event_id, "key": "👍"}

    (reaction,) = await world.append(room_id, Draft("m.reaction", BOB, {"m.relates_to": relates}))

    assert await _rows(world, RELATIONS) == [
        (reaction.event_id, sent.event_id, "m.annotation", "👍")
    ]
    assert world.seen[-1][1].relates_to == ("m.annotation", sent.event_id)


async def test_thread_has_reply_count_and_latest_reply(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB])
    root = await world.send(room_id, ALICE)

    first = await _reply(world, room_id, root.event_id)
    second = await _reply(world, room_id, root.event_id)
    assert await _rows(world, THREADS) == [(root.event_id, second.event_id, 2)]

    await world.redact(room_id, BOB, second.event_id)
    assert await _rows(world, THREADS) == [(root.event_id, first.event_id, 1)]
    await world.redact(room_id, BOB, first.event_id)
    assert await _rows(world, THREADS) == []


async def test_redacted_reaction_has_no_relation(world: World) -> None:
    room_id = await world.create_room(ALICE)
    sent = await world.send(room_id, ALICE)
    relates = {"rel_type": "m.annotation", "event_id": sent.event_id, "key": "x"}
    (reaction,) = await world.append(room_id, Draft("m.reaction", ALICE, {"m.relates_to": relates}))

    await world.redact(room_id, ALICE, reaction.event_id)

    assert await _rows(world, RELATIONS) == []


async def test_local_memberships_follow_member_events(world: World) -> None:
    room_id = await world.create_room(ALICE, join=[BOB], invite=[CAROL])

    await world.set_membership(room_id, ALICE, BOB, "ban")

    query = "SELECT user_id, membership, sender FROM local_memberships ORDER BY user_id"
    assert await _rows(world, query) == [
        (ALICE, "join", ALICE),
        (BOB, "ban", ALICE),
        (CAROL, "invite", ALICE),
    ]
