"""Kicks and bans that redact the user's events."""

from collections.abc import AsyncIterator

import pytest

from hs.core.ids import RoomID
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL

V3 = "/_matrix/client/v3"


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


async def redacted(acts: Actions, room_id: RoomID) -> set[str]:
    events = {event.event_id: event for event in await acts.events_of(room_id)}
    stored = await acts.world.events.get(events)
    return {
        each.event.content.get("body", each.event.type)
        for each in stored.values()
        if each.redacted_by is not None
    }


@pytest.mark.parametrize("key", ["redact_events", "org.matrix.msc4293.redact_events"])
@pytest.mark.parametrize("what", ["ban", "kick"])
async def test_events_since_the_last_join_are_redacted(acts: Actions, what: str, key: str) -> None:
    world = acts.world
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    await world.send(room_id, BOB, "old")
    await world.leave(room_id, BOB)
    await world.join(room_id, BOB)
    for body in ("spam", "more spam"):
        await world.send(room_id, BOB, body)
    await world.send(room_id, CAROL, "fine")

    response = await acts.client().post(
        f"{V3}/rooms/{room_id}/{what}",
        {"user_id": BOB, "reason": "flood", key: True},
        token="alice",
    )

    assert response.status == 200
    assert await redacted(acts, room_id) == {"spam", "more spam"}
    content = await acts.state(room_id, "m.room.member", BOB)
    assert content["redact_events"] is True
    assert content["reason"] == "flood"


async def test_moderator_without_power_to_redact_only_bans(acts: Actions) -> None:
    levels = {"users": {ALICE: 100, CAROL: 50}, "redact": 75}
    room_id = await acts.world.create_room(ALICE, join=[BOB, CAROL], power_levels=levels)
    await acts.world.send(room_id, BOB, "stays")

    response = await acts.client().post(
        f"{V3}/rooms/{room_id}/ban", {"user_id": BOB, "redact_events": True}, token="carol"
    )

    assert response.status == 200
    assert await redacted(acts, room_id) == set()
    assert (await acts.state(room_id, "m.room.member", BOB))["membership"] == "ban"


async def test_nothing_is_redacted_without_the_flag(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    await acts.world.send(room_id, BOB, "stays")

    await acts.client().post(f"{V3}/rooms/{room_id}/ban", {"user_id": BOB}, token="alice")

    assert await redacted(acts, room_id) == set()
