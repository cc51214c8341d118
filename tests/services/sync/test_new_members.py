"""The responses of /sync to users who join rooms or come back."""

from typing import Any

import pytest

from hs.core.ids import RoomID
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import Syncing, bodies, open_syncing

HISTORY = "m.room.history_visibility"


async def since_of(s: Syncing, **more: Any) -> str:
    token: str = (await s.sync(BOB, **more))["next_batch"]
    return token


async def timeline(s: Syncing, since: str, room_id: RoomID, **more: Any) -> Any:
    return (await s.sync(BOB, since, **more))["rooms"]["join"][room_id]["timeline"]


async def test_timeline_of_a_newly_joined_room_is_limited(database: Database) -> None:
    messages = {"room": {"timeline": {"types": ["m.room.message"]}}}
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        await s.world.send(room_id, ALICE, "a")
        since = await since_of(s)
        await s.world.join(room_id, BOB)
        own = await s.world.create_room(BOB)

        joined = await timeline(s, since, room_id, filter=messages)
        made = await timeline(s, since, own)

        assert (len(joined["events"]), joined["limited"]) == (1, True)
        # Nothing is missing before the room's first event.
        assert made["limited"] is False


@pytest.mark.parametrize("messages", [0, 50])
async def test_state_set_during_an_absence_is_in_the_timeline_after_the_return(
    database: Database, messages: int
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.set_state(room_id, ALICE, HISTORY, {"history_visibility": "joined"})
        since = await since_of(s)
        await s.world.leave(room_id, BOB)
        await s.world.join(room_id, CAROL)
        for n in range(messages):
            await s.world.send(room_id, ALICE, str(n))
        await s.world.join(room_id, BOB)

        answer = await s.sync(BOB, since)

        room = answer["rooms"]["join"][room_id]
        members = [
            (event["state_key"], event["content"]["membership"])
            for event in room["timeline"]["events"]
        ]
        assert members == [(BOB, "leave"), (CAROL, "join"), (BOB, "join")]
        assert bodies(room) == []


async def test_filtered_profile_change_is_not_sent(database: Database) -> None:
    none: dict[str, list[str]] = {"types": []}
    narrow = {"room": {"timeline": none, "state": none, "ephemeral": none}, "presence": none}
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = await since_of(s, filter=narrow)

        await s.world.set_state(
            room_id, ALICE, "m.room.member", {"membership": "join", "displayname": "A"}, ALICE
        )
        renamed = await s.sync(BOB, since, filter=narrow)
        await s.world.join(room_id, CAROL)
        joined = await s.sync(BOB, since, filter=narrow)

        assert "rooms" not in renamed
        summary = joined["rooms"]["join"][room_id]["summary"]
        assert summary["m.joined_member_count"] == 3


async def test_events_in_federation_format_have_their_event_and_room_id(
    database: Database,
) -> None:
    federation = {"event_format": "federation", "room": {"timeline": {"limit": 1}}}
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(BOB)
        sent = await s.world.send(room_id, BOB, "x")

        answer = await s.sync(BOB, filter=federation)

        (event,) = answer["rooms"]["join"][room_id]["timeline"]["events"]
        assert (event["event_id"], event["room_id"]) == (sent.event_id, room_id)
        assert {"prev_events", "auth_events", "depth", "hashes", "signatures"} <= set(event)
