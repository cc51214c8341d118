"""Clients continue in rooms whose old messages were purged."""

import attrs
import pytest

from hs.core.ids import RoomID
from hs.services.rooms.read.retention_policy import RetentionPolicies
from hs.services.rooms.retention.purge import MessagePurge
from hs.settings.sections.retention import PurgeJob, RetentionPolicy, RetentionSettings
from hs.storage.database import Database
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import bodies, open_syncing

MINUTE = 60_000


@attrs.define
class SettableExpiry:
    """An Expiry whose time is set by the test."""

    before_ms: int = 0

    async def hidden_before(self, room_id: RoomID) -> int:
        return self.before_ms


SETTINGS = RetentionSettings(enabled=True, default_policy=RetentionPolicy(max_lifetime=10 * MINUTE))


async def test_room_can_be_read_and_synced_after_a_purge(database: Database) -> None:
    async with open_syncing(database) as s:
        world = s.world
        room_id = await world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE))["next_batch"]
        for n in range(30):
            await world.send(room_id, BOB, f"old {n}")
            if n % 10 == 5:
                await world.set_state(room_id, ALICE, "m.room.topic", {"topic": str(n)})
        world.clock.advance(11 * MINUTE)
        await world.send(room_id, BOB, "new")
        policies = RetentionPolicies.following(world.feed, world.states, SETTINGS, world.clock)
        purge = MessagePurge(database, world.events, policies, SETTINGS, world.clock)

        assert await purge.purge(PurgeJob()) == 30

        for response in (await s.sync(ALICE, since), await s.sync(ALICE)):
            room = response["rooms"]["join"][room_id]
            assert bodies(room) == ["new"]
        reading = readers_of(world, policies)
        client = client_of(reading, ALICE)
        page = await client.get(
            f"/_matrix/client/v3/rooms/{room_id}/messages?dir=b&limit=100", token=ALICE
        )
        types = [event["type"] for event in page.json["chunk"]]
        assert types.count("m.room.message") == 1
        assert types.count("m.room.topic") == 3
        assert types[-1] == "m.room.create"
        later = (await s.sync(BOB))["next_batch"]
        await world.send(room_id, ALICE, "more")
        news = (await s.sync(BOB, later))["rooms"]["join"][room_id]["timeline"]["events"]
        assert [event["content"]["body"] for event in news] == ["more"]


@pytest.mark.parametrize("ignores", [False, True])
async def test_message_that_has_expired_is_not_synced_later(
    database: Database, ignores: bool
) -> None:
    expiry = SettableExpiry()
    async with open_syncing(database, expiry) as s:
        world = s.world
        if ignores:
            s.reading.wishes.ignored[ALICE] = {CAROL}
        room_id = await world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE))["next_batch"]
        await world.send(room_id, BOB, "old")
        await world.set_state(room_id, ALICE, "m.room.topic", {"topic": "stays"})
        world.clock.advance(10)
        await world.send(room_id, BOB, "new")
        seen = (await s.sync(ALICE, since))["rooms"]["join"][room_id]
        assert bodies(seen) == ["old", "new"]

        expiry.before_ms = world.clock.now_ms()

        for late in (since, None):
            seen = (await s.sync(ALICE, late, device_id="OTHER"))["rooms"]["join"][room_id]
            assert bodies(seen) == ["new"]
            assert any(event["type"] == "m.room.topic" for event in seen["timeline"]["events"])
