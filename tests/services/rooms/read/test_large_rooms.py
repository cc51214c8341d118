"""The members of a room that is not in memory are read together, and fill no cache."""

from typing import Any

import orjson
import pytest

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.rooms.read import room_state
from hs.services.rooms.read.room_state import MembersRequest
from hs.storage.database import Database
from tests.support.reading import readers_of
from tests.support.rooms import ALICE, World, member, open_world
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet

USERS = [UserID(f"@user{number}:test.example") for number in range(60)]
PART = 20


async def members_of(world: World, request: MembersRequest) -> dict[str, dict[str, Any]]:
    """Return the member events that a request answers, by user."""
    state = world.process.services.reading.state
    events = orjson.loads(orjson.dumps(await state.members(Requester(ALICE), request)))
    by_user = {event["state_key"]: event for event in events}
    assert len(by_user) == len(events)
    return by_user


async def test_members_of_a_large_room_are_read_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_state, "EVENTS_AT_ONCE", PART)
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        await world.append(room_id, *[member(user_id, "join") for user_id in USERS])
        await wait_until_quiet(world.process)
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)

    async with open_world(counting) as world:
        await wait_until_quiet(world.process)
        await world.memberships.rooms_of(ALICE)
        count.units.clear()
        members = await members_of(world, MembersRequest(room_id))
        rendered = readers_of(world).rendering.cache

        assert members.keys() == {ALICE, *USERS}
        parts = -(-len(members) // PART)
        assert count.units == ["list_member_events", *["render_members"] * parts]
        assert len(rendered) == len(world.events.cache) == 0


@pytest.mark.parametrize(
    "condition", [{}, {"membership": "join"}, {"not_membership": "join"}, {"membership": "ban"}]
)
async def test_members_are_the_same_after_a_restart(
    database: Database, condition: dict[str, str]
) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        joins = await world.append(
            room_id, *[member(user_id, "join", displayname="name") for user_id in USERS[:4]]
        )
        await world.set_membership(room_id, ALICE, USERS[0], "ban")
        await world.append(room_id, member(USERS[1], "leave"))
        await world.redact(room_id, ALICE, joins[2].event_id)
        request = MembersRequest(room_id, **condition)
        before = await members_of(world, request)

    async with open_world(database) as world:
        after = await members_of(world, request)

    assert after == before
    if not condition:
        assert after[USERS[2]]["content"] == {"membership": "join"}
        assert "redacted_because" in after[USERS[2]]["unsigned"]
