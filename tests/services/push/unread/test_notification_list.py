"""The list of notifications."""

from typing import Any

import orjson
import pytest

from hs.core.errors import InvalidParam
from hs.core.events import event_types
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.unread import open_unread


def bodies_and_read(response: dict[str, Any]) -> list[tuple[str, bool]]:
    listed = orjson.loads(orjson.dumps(response))["notifications"]
    return [(entry["event"]["content"]["body"], entry["read"]) for entry in listed]


async def test_notifications_are_listed_newest_first_in_pages(database: Database) -> None:
    async with open_unread(database) as unread:
        world, listing = unread.world, unread.services.push.notifications
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE, "before Bob")
        await world.join(room_id, BOB)
        first = await world.send(room_id, ALICE, "one")
        content: dict[str, Any] = {
            "msgtype": "m.text",
            "body": "two",
            "m.mentions": {"user_ids": [BOB]},
        }
        await world.append(room_id, Draft(event_types.MESSAGE, ALICE, content))
        await world.send(room_id, ALICE, "three")
        await unread.read(BOB, room_id, first.event_id)

        page = await listing.page(Requester(BOB), None, 2, highlights=False)
        rest = await listing.page(Requester(BOB), page["next_token"], 10, highlights=False)
        highlighted = await listing.page(Requester(BOB), None, 10, highlights=True)

        assert bodies_and_read(page) == [("three", False), ("two", False)]
        assert bodies_and_read(rest) == [("one", True)]
        assert "next_token" not in rest
        assert bodies_and_read(highlighted) == [("two", False)]
        assert (await listing.page(Requester(CAROL), None, 10, highlights=False)) == {
            "notifications": []
        }
        with pytest.raises(InvalidParam):
            await listing.page(Requester(BOB), "yesterday", 10, highlights=False)
