"""Kicks and bans that take with them what the user sent."""

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
    events = {one.event_id: one for one in await acts.events_of(room_id)}
    stored = await acts.world.events.get(events)
    return {
        one.event.content.get("body", one.event.type)
        for one in stored.values()
        if one.redacted_by is not None
    }


@pytest.mark.parametrize("key", ["redact_events", "org.matrix.msc4293.redact_events"])
@pytest.mark.parametrize("what", ["ban", "kick"])
async def test_what_was_sent_since_the_user_came_goes_with_them(
    acts: Actions, what: str, key: str
) -> None:
    world = acts.world
    room_id = await world.create_room(ALICE, join=[BOB, CAROL])
    await world.send(room_id, BOB, "old")
    await world.leave(room_id, BOB)
    await world.join(room_id, BOB)
    for body in ("spam", "more spam"):
        await world.send(room_id, BOB, body)
    await world.send(room_id, CAROL, "fine")

    answer = await acts.client().post(
        f"{V3}/rooms/{room_id}/{what}",
        {"user_id": BOB, "reason": "flood", key: True},
        token="alice",
    )

    assert answer.status == 200
    assert await redacted(acts, room_id) == {"spam", "more spam"}
    content = await acts.state(room_id, "m.room.member", BOB)
    assert content["redact_events"] is True
    assert content["reason"] == "flood"


async def test_who_may_ban_but_not_redact_only_bans(acts: Actions) -> None:
    levels = {"users": {ALICE: 100, CAROL: 50}, "redact": 75}
    room_id = await acts.world.create_room(ALICE, join=[BOB, CAROL], power_levels=levels)
    await acts.world.send(room_id, BOB, "stays")

    answer = await acts.client().post(
        f"{V3}/rooms/{room_id}/ban", {"user_id": BOB, "redact_events": True}, token="carol"
    )

    assert answer.status == 200
    assert await redacted(acts, room_id) == set()
    assert (await acts.state(room_id, "m.room.member", BOB))["membership"] == "ban"


async def test_without_the_flag_everything_stays(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    await acts.world.send(room_id, BOB, "stays")

    await acts.client().post(f"{V3}/rooms/{room_id}/ban", {"user_id": BOB}, token="alice")

    assert await redacted(acts, room_id) == set()
