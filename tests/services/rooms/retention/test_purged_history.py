"""Clients continue in rooms whose old messages were purged."""

from typing import Any

import attrs
import orjson
import pytest

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.sync.sync_context import SyncRequest
from hs.settings.sections.retention import PurgeJob, RetentionPolicy, RetentionSettings
from hs.storage.database import Database
from tests.support.composition import SETTINGS
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

MINUTE = 60_000


POLICY = RetentionPolicy(max_lifetime=10 * MINUTE)
RETAINING = attrs.evolve(SETTINGS, retention=RetentionSettings(enabled=True, default_policy=POLICY))


async def sync(
    world: World, user_id: UserID, since: str | None = None, device_id: str = "DEVICE"
) -> dict[str, Any]:
    request = SyncRequest(Requester(user_id, device_id), since)
    response: dict[str, Any] = orjson.loads(await world.process.services.sync.sync.sync(request))
    return response


def bodies(room: dict[str, Any]) -> list[str]:
    contents = [event["content"] for event in room["timeline"]["events"]]
    return [content["body"] for content in contents if "body" in content]


async def test_room_can_be_read_and_synced_after_a_purge(database: Database) -> None:
    async with open_world(database, RETAINING) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        since = (await sync(world, ALICE))["next_batch"]
        for n in range(30):
            await world.send(room_id, BOB, f"old {n}")
            if n % 10 == 5:
                await world.set_state(room_id, ALICE, "m.room.topic", {"topic": str(n)})
        world.clock.advance(11 * MINUTE)
        await world.send(room_id, BOB, "new")
        purge = world.process.services.retention.messages
        assert purge is not None

        assert await purge.purge(PurgeJob()) == 30

        for response in (await sync(world, ALICE, since), await sync(world, ALICE)):
            room = response["rooms"]["join"][room_id]
            assert bodies(room) == ["new"]
        client = client_of(readers_of(world), ALICE)
        page = await client.get(
            f"/_matrix/client/v3/rooms/{room_id}/messages?dir=b&limit=100", token=ALICE
        )
        types = [event["type"] for event in page.json["chunk"]]
        assert types.count("m.room.message") == 1
        assert types.count("m.room.topic") == 3
        assert types[-1] == "m.room.create"
        later = (await sync(world, BOB))["next_batch"]
        await world.send(room_id, ALICE, "more")
        news = (await sync(world, BOB, later))["rooms"]["join"][room_id]["timeline"]["events"]
        assert [event["content"]["body"] for event in news] == ["more"]


@pytest.mark.parametrize("ignores", [False, True])
async def test_message_that_has_expired_is_not_synced_later(
    database: Database, ignores: bool
) -> None:
    async with open_world(database, RETAINING) as world:
        if ignores:
            await readers_of(world).ignore(ALICE, CAROL)
        room_id = await world.create_room(ALICE, join=[BOB])
        since = (await sync(world, ALICE))["next_batch"]
        await world.send(room_id, BOB, "old")
        await world.set_state(room_id, ALICE, "m.room.topic", {"topic": "stays"})
        world.clock.advance(9 * MINUTE)
        await world.send(room_id, BOB, "new")
        seen = (await sync(world, ALICE, since))["rooms"]["join"][room_id]
        assert bodies(seen) == ["old", "new"]

        world.clock.advance(2 * MINUTE)

        for late in (since, None):
            seen = (await sync(world, ALICE, late, device_id="OTHER"))["rooms"]["join"][room_id]
            assert bodies(seen) == ["new"]
            assert any(event["type"] == "m.room.topic" for event in seen["timeline"]["events"])
