"""Redacted state: permissions are derived from what the redaction left, and so is its JSON."""

from typing import Any

import orjson
import pytest

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world


async def room_for_inviting_moderators(world: World) -> tuple[RoomID, EventID]:
    # Redaction takes the power for invites in versions before 11; what is absent needs none.
    room_id = await world.create_room(version="10", join=[BOB], power_levels={"invite": 50})
    state = await world.states.current(room_id)
    return room_id, state[event_types.POWER_LEVELS_KEY]


async def test_redacted_power_levels_require_no_power(world: World) -> None:
    room_id, levels = await room_for_inviting_moderators(world)
    with pytest.raises(Forbidden):
        await world.set_membership(room_id, BOB, CAROL, "invite")

    await world.redact(room_id, ALICE, levels)

    await world.set_membership(room_id, BOB, CAROL, "invite")


async def test_redacted_power_levels_apply_after_a_restart(database: Database) -> None:
    async with open_world(database) as world:
        room_id, levels = await room_for_inviting_moderators(world)
        await world.redact(room_id, ALICE, levels)

    async with open_world(database) as world:
        await world.set_membership(room_id, BOB, CAROL, "invite")


async def test_power_levels_set_after_a_redaction_apply(world: World) -> None:
    room_id, levels = await room_for_inviting_moderators(world)
    await world.redact(room_id, ALICE, levels)
    with pytest.raises(Forbidden):
        await world.set_state(room_id, BOB, "m.room.topic", {"topic": "t"})

    again = {"users": {ALICE: 100}, "invite": 50}
    await world.set_state(room_id, ALICE, "m.room.power_levels", again)

    with pytest.raises(Forbidden):
        await world.set_membership(room_id, BOB, CAROL, "invite")


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_state_rendered_from_its_bytes_is_that_of_parsed_events(
    database: Database, version: str
) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE, version=version, join=[BOB])
        content = {"topic": 'a "quoted" é \n text', "nested": {"n": [1, None, True]}}
        await world.set_state(room_id, ALICE, "m.room.topic", content)
        named = await world.set_state(room_id, ALICE, "m.room.name", {"name": "secret"})
        await world.redact(room_id, ALICE, named.event_id)

    rendered: list[dict[EventID, Any]] = []
    for is_parsed in (True, False):
        async with open_world(database) as world:  # with empty caches
            reading = world.process.services.reading
            ids = list((await world.states.current(room_id)).values())
            requester = Requester(BOB)
            if is_parsed:
                events = await world.events.get(ids)
                texts = await reading.serializer.state(requester, list(events.values()))
            else:
                texts = await reading.serializer.state_by_id(requester, ids)
            rendered.append({each["event_id"]: each for each in map(orjson.loads, texts)})

    assert rendered[0] == rendered[1]
    assert rendered[1][named.event_id]["content"] == {}
    assert len(rendered[1]) == 7
