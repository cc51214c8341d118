"""Messages of ignored users are hidden from all endpoints that read rooms."""

from typing import Any

from hs.core.ids import RoomID
from hs.storage.database import Database
from tests.support.reading import client_of, readers_of
from tests.support.rooms import ALICE, BOB, CAROL, message, open_world

ROOMS = "/_matrix/client/v3/rooms"


def bodies(events: list[dict[str, Any]]) -> list[str]:
    return [event["content"]["body"] for event in events if "body" in event["content"]]


async def test_messages_of_ignored_users_are_hidden(database: Database) -> None:
    async with open_world(database) as world:
        reading = readers_of(world)
        room_id: RoomID = await world.create_room(ALICE, join=[BOB, CAROL])
        root = await world.send(room_id, ALICE, "root")
        ignored = await world.send(room_id, BOB, "from bob")
        await world.set_state(room_id, ALICE, "m.room.topic", {"topic": "all see this"})
        reply = message(BOB, "bob's reply")
        relation = {"rel_type": "m.thread", "event_id": root.event_id}
        content = {**reply.content, "m.relates_to": relation}
        await world.append(room_id, type(reply)(reply.type, BOB, content))
        visible = await world.send(room_id, CAROL, "from carol")
        await reading.ignore(ALICE, BOB)
        client = client_of(reading, ALICE)

        async def get(path: str) -> Any:
            return await client.get(f"{ROOMS}/{room_id}/{path}", token=ALICE)

        page = (await get("messages?dir=b&limit=50")).json
        assert bodies(page["chunk"]) == ["from carol", "root"]
        assert any(event["type"] == "m.room.topic" for event in page["chunk"])
        context = (await get(f"context/{visible.event_id}?limit=20")).json
        assert "from bob" not in bodies([*context["events_before"], *context["events_after"]])
        assert (await get(f"event/{ignored.event_id}")).status == 404
        assert (await get(f"context/{ignored.event_id}")).status == 404
        rendered_root = (await get(f"event/{root.event_id}")).json
        assert "m.thread" not in rendered_root.get("unsigned", {}).get("m.relations", {})
        threads = await client.get(f"/_matrix/client/v1/rooms/{room_id}/threads", token=ALICE)
        assert "bob's reply" not in str(threads.json)
        relations_path = f"/_matrix/client/v1/rooms/{room_id}/relations/{root.event_id}"
        assert bodies((await client.get(relations_path, token=ALICE)).json["chunk"]) == []
