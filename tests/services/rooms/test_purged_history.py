"""Clients go on in rooms whose old messages were purged."""

from hs.services.rooms.keeping import MessagePurge
from hs.services.rooms.retention import RetentionPolicies
from hs.settings.keeping import Lifetimes, PurgeJob, RetentionSettings
from hs.storage.database import Database
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB
from tests.support.syncing import open_syncing

MINUTE = 60_000
SETTINGS = RetentionSettings(enabled=True, default_policy=Lifetimes(max_lifetime=10 * MINUTE))


async def test_rooms_are_read_and_synced_after_a_purge(database: Database) -> None:
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

        for answer in (await s.sync(ALICE, since), await s.sync(ALICE)):
            room = answer["rooms"]["join"][room_id]
            bodies = [
                one["content"]["body"]
                for one in room["timeline"]["events"]
                if "body" in one["content"]
            ]
            assert bodies == ["new"]
        reading = readers_of(world, policies)
        client = client_of(reading, ALICE)
        page = await client.get(
            f"/_matrix/client/v3/rooms/{room_id}/messages?dir=b&limit=100", token=ALICE
        )
        types = [one["type"] for one in page.json["chunk"]]
        assert types.count("m.room.message") == 1
        assert types.count("m.room.topic") == 3
        assert types[-1] == "m.room.create"
        later = (await s.sync(BOB))["next_batch"]
        await world.send(room_id, ALICE, "more")
        news = (await s.sync(BOB, later))["rooms"]["join"][room_id]["timeline"]["events"]
        assert [one["content"]["body"] for one in news] == ["more"]
