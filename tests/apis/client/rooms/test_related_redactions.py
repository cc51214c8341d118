"""Redactions that include the events that relate to the redacted one."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB

V3 = "/_matrix/client/v3"
TEXT = {"msgtype": "m.text", "body": "x"}


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as acts:
        yield acts


async def relate(
    acts: Actions, room_id: RoomID, sender: UserID, rel_type: str, parent: EventID
) -> EventID:
    content = {**TEXT, "m.relates_to": {"rel_type": rel_type, "event_id": parent}}
    draft = Draft("m.room.message", sender, content)
    return (await acts.world.append(room_id, draft))[0].event_id


async def redact(
    acts: Actions, room_id: RoomID, event_id: EventID, body: Any, token: str = "alice"
) -> Any:
    path = f"{V3}/rooms/{room_id}/redact/{event_id}/t"
    response = await acts.client().put(path, body, token=token)
    assert response.status == 200, response.body
    return response.json["event_id"]


async def redacted(acts: Actions, *event_ids: EventID) -> list[bool]:
    stored = await acts.world.events.get(event_ids)
    return [stored[event_id].redacted_by is not None for event_id in event_ids]


@pytest.mark.parametrize("name", ["with_rel_types", "org.matrix.msc3912.with_relations"])
async def test_related_events_of_the_given_types_are_redacted(acts: Actions, name: str) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    root = (await acts.world.send(room_id, ALICE)).event_id
    edit = await relate(acts, room_id, ALICE, "m.replace", root)
    reply = await relate(acts, room_id, BOB, "m.thread", root)
    edit_of_reply = await relate(acts, room_id, BOB, "m.replace", reply)

    first = await redact(acts, room_id, root, {name: ["m.replace"], "reason": "spam"})
    after_first = await redacted(acts, root, edit, reply, edit_of_reply)
    repeated = await redact(acts, room_id, root, {name: ["*"]})

    assert after_first == [True, True, False, False]
    assert repeated == first
    # A repetition redacts what is left, and only direct relations.
    assert await redacted(acts, root, edit, reply, edit_of_reply) == [True, True, True, False]


async def test_without_relation_types_only_the_event_is_redacted(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    root = (await acts.world.send(room_id, ALICE)).event_id
    edit = await relate(acts, room_id, ALICE, "m.replace", root)

    await redact(acts, room_id, root, {"with_rel_types": []})

    assert await redacted(acts, root, edit) == [True, False]


async def test_events_of_others_stay_without_the_power_to_redact_them(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    root = (await acts.world.send(room_id, BOB)).event_id
    own = await relate(acts, room_id, BOB, "m.thread", root)
    other = await relate(acts, room_id, ALICE, "m.thread", root)

    await redact(acts, room_id, root, {"with_rel_types": ["m.thread"]}, "bob")

    assert await redacted(acts, root, own, other) == [True, True, False]
