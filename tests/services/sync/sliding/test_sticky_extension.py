"""The extension of sticky events: every event once, with a token of its own."""

from typing import Any

import pytest
import trio

from hs.core.errors import InvalidParam
from hs.core.ids import RoomID, UserID
from hs.services.rooms.append.drafts import Draft
from hs.services.sync.sliding.sticky_extension import STICKY_EXTENSION
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, World, member
from tests.support.sliding import Sliding, bodies, open_sliding, open_two, window

HOUR_MS = 3_600_000
ONE = window(limit=1)


async def stick(world: World, room_id: RoomID, *texts: str, sender: UserID = BOB) -> None:
    drafts = [
        Draft("m.room.message", sender, {"msgtype": "m.text", "body": text}, sticky_ms=HOUR_MS)
        for text in texts
    ]
    await world.append(room_id, *drafts)


async def sync(
    s: Sliding, user_id: UserID, before: Any = None, *, since: str | None = None, **more: Any
) -> Any:
    """Continue after a response, with its token of the extension unless another one is given."""
    if since is None and before is not None:
        since = before["extensions"].get(STICKY_EXTENSION, {}).get("next_batch", before["since"])
    sticky = {"enabled": True, "since": since, "limit": more.pop("limit", None)}
    pos = None if before is None else before["pos"]
    more = {"lists": ONE, **more}
    response = await s.sync(user_id, pos, extensions={"sticky": sticky}, **more)
    return {**response, "since": since}


def texts(response: Any, room_id: RoomID) -> list[str]:
    rooms = response["extensions"].get(STICKY_EXTENSION, {}).get("rooms", {})
    events = rooms.get(room_id, {"events": []})["events"]
    return [event["content"]["body"] for event in events]


async def test_events_outside_the_timeline_are_sent_once(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, "old", "new")
        s.world.clock.advance(1000)

        first = await sync(s, ALICE)
        second = await sync(s, ALICE, first)

        assert texts(first, room_id) == ["old"]
        (event,) = first["extensions"][STICKY_EXTENSION]["rooms"][room_id]["events"]
        assert event["unsigned"]["msc4354_sticky_duration_ttl_ms"] == HOUR_MS - 1000
        assert bodies(first["rooms"][room_id]) == ["new"]
        assert STICKY_EXTENSION not in second["extensions"]


async def test_extension_is_left_out_unless_enabled(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, "old", "new")

        assert STICKY_EXTENSION not in (await s.sync(ALICE, lists=ONE))["extensions"]


async def test_repeated_token_repeats_events_until_they_are_acknowledged(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        first = await sync(s, ALICE)
        await stick(s.world, room_id, "1", "2")

        second = await sync(s, ALICE, first)
        again = await sync(s, ALICE, first)
        other_connection = await sync(
            s, ALICE, since=second["extensions"][STICKY_EXTENSION]["next_batch"], conn_id="other"
        )

        assert texts(second, room_id) == texts(again, room_id) == ["1"]
        assert texts(other_connection, room_id) == []


async def test_limit_is_kept_earliest_first(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, *(f"{n}" for n in range(7)))
        await s.world.send(room_id, BOB, "plain")

        response, received = None, []
        for _ in range(3):
            response = await sync(s, ALICE, response, limit=3)
            received.append(texts(response, room_id))

        assert received == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
        assert texts(await sync(s, ALICE, response, limit=3), room_id) == []


async def test_rooms_of_a_list_count_even_outside_of_its_ranges(database: Database) -> None:
    async with open_sliding(database) as s:
        hidden = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, hidden, "hidden")
        direct = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, direct, "direct")
        latest = await s.world.create_room(ALICE)
        await s.set_account_data(ALICE, "m.direct", {BOB: [direct]})
        lists = window([0, 0], limit=1, filters={"is_dm": False})

        first = await sync(s, ALICE, lists=lists)
        await stick(s.world, hidden, "later")
        with trio.fail_after(10):
            second = await sync(s, ALICE, first, lists=lists, timeout_ms=60_000)
        subscribed = await sync(
            s, ALICE, second, lists=lists, room_subscriptions={direct: {"timeline_limit": 0}}
        )

        assert list(first["rooms"]) == [latest]
        assert texts(first, hidden) == ["hidden"]
        assert texts(first, direct) == []
        assert "later" in texts(second, hidden) + bodies(
            second["rooms"].get(hidden, {"timeline": []})
        )
        assert texts(subscribed, direct) == ["direct"]


async def test_joining_brings_all_sticky_events_and_a_profile_change_none(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        known = await s.world.create_room(ALICE, join=[BOB, CAROL])
        await stick(s.world, room_id, "before")
        await stick(s.world, known, "known", "timeline")
        lists = window([0, 0], limit=1)
        first = await sync(s, CAROL, lists=lists)

        await s.world.join(room_id, CAROL)
        await s.world.append(known, member(CAROL, "join", displayname="Carol"))
        second = await sync(s, CAROL, first, lists=lists)

        assert texts(first, known) == ["known"]
        assert texts(second, room_id) == ["before"]
        assert texts(second, known) == []


async def test_ignored_users_do_not_keep_others_from_being_delivered(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL])
        await s.set_account_data(ALICE, "m.ignored_user_list", {"ignored_users": {BOB: {}}})
        first = await sync(s, ALICE)
        await stick(s.world, room_id, *(f"{n}" for n in range(5)))
        await stick(s.world, room_id, "wanted", "timeline", sender=CAROL)

        response, pages = first, []
        with trio.fail_after(10):
            while "wanted" not in texts(response, room_id):
                response = await sync(s, ALICE, response, limit=2, timeout_ms=60_000)
                pages.append(texts(response, room_id))

        assert pages == [[], [], ["wanted"]]


async def test_other_process_continues_and_foreign_tokens_start_again(database: Database) -> None:
    async with open_two(database) as (first, second):
        room_id = await first.world.create_room(ALICE, join=[BOB])
        await stick(first.world, room_id, "1", "2")
        at_first = await sync(first, ALICE)
        await stick(first.world, room_id, "3", "4")

        at_second = await sync(second, ALICE, at_first, timeout_ms=5000)
        of_future = await sync(second, ALICE, at_first, since="k99999999")

        assert texts(at_first, room_id) == ["1"]
        assert texts(at_second, room_id) == ["3"]
        assert texts(of_future, room_id) == ["1", "2", "3"]
        with pytest.raises(InvalidParam):
            await sync(second, ALICE, at_first, since="99")


async def test_joined_room_with_more_than_fit_is_delivered_completely(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        sent = [f"{n}" for n in range(7)]
        await stick(s.world, room_id, *sent)
        response = await sync(s, CAROL)
        await s.world.join(room_id, CAROL)

        received: list[str] = []
        for _ in range(4):
            response = await sync(s, CAROL, response, limit=2)
            received += texts(response, room_id)

        assert received == sent
        assert texts(await sync(s, CAROL, response, limit=2), room_id) == []


async def test_new_token_does_not_end_the_waiting(
    database: Database, autojump_clock: trio.abc.Clock
) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        first = await sync(s, ALICE)
        other_id = await s.world.create_room(BOB)
        await stick(s.world, other_id, "sticky")
        began = trio.current_time()

        second = await sync(s, ALICE, first, timeout_ms=5000)

        assert trio.current_time() - began >= 5
        assert "rooms" not in second["extensions"][STICKY_EXTENSION]
