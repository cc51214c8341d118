"""Sticky events in `/sync`: each is delivered once, whatever the limit of the timeline is."""

from typing import Any, Final

import pytest

from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import EVENTS
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.sticky_events import StickyEvents, StickyScope
from hs.services.sync.sticky_section import MAX_EVENTS
from hs.storage.database import Database
from hs.storage.rooms import purge
from tests.support.composition import Neighbourhood
from tests.support.rooms import ALICE, BOB, CAROL, World
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet
from tests.support.syncing import bodies, main_and_reader, open_syncing

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
ONE: Final = {"room": {"timeline": {"limit": 1}}}
TTL: Final = "msc4354_sticky_duration_ttl_ms"


def sticky(sender: UserID, body: str, duration_ms: int = HOUR_MS) -> Draft:
    content = {"msgtype": "m.text", "body": body}
    return Draft("m.room.message", sender, content, sticky_ms=duration_ms)


async def stick(world: World, room_id: RoomID, sender: UserID, *texts: str) -> list[EventID]:
    drafts = [sticky(sender, text) for text in texts]
    return [event.event_id for event in await world.append(room_id, *drafts)]


def joined(response: dict[str, Any], room_id: RoomID) -> dict[str, Any]:
    room: dict[str, Any] = response.get("rooms", {}).get("join", {}).get(room_id, {})
    return room


def section(response: dict[str, Any], room_id: RoomID) -> list[str]:
    events = joined(response, room_id).get("msc4354_sticky", {}).get("events", [])
    return [event["content"]["body"] for event in events]


def timeline(response: dict[str, Any], room_id: RoomID) -> list[str]:
    room = joined(response, room_id)
    return bodies(room) if room else []


async def test_first_sync_has_sticky_events_that_the_timeline_lacks(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, BOB, "old", "new")

        response = await s.sync(ALICE, filter=ONE)

        assert timeline(response, room_id) == ["new"]
        assert section(response, room_id) == ["old"]
        assert section(await s.sync(ALICE, response["next_batch"], filter=ONE), room_id) == []


async def test_remaining_time_is_that_of_the_response(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.append(room_id, sticky(BOB, "old", 10 * MINUTE_MS), sticky(BOB, "new"))

        s.world.clock.advance(4 * MINUTE_MS)
        room = joined(await s.sync(ALICE, filter=ONE), room_id)

        (old,), (new,) = room["msc4354_sticky"]["events"], room["timeline"]["events"]
        assert old["unsigned"][TTL] == 6 * MINUTE_MS
        assert old["msc4354_sticky"] == {"duration_ms": 10 * MINUTE_MS}
        assert new["unsigned"][TTL] == 56 * MINUTE_MS
        assert "room_id" not in old


async def test_repeated_first_sync_says_what_remains_now(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, BOB, "new")

        remaining = []
        for _ in range(2):
            (event,) = joined(await s.sync(ALICE, filter=ONE), room_id)["timeline"]["events"]
            remaining.append(event["unsigned"][TTL])
            s.world.clock.advance(MINUTE_MS)

        assert remaining == [HOUR_MS, HOUR_MS - MINUTE_MS]


async def test_expired_events_are_neither_sent_nor_have_remaining_time(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, BOB, "old", "new")

        s.world.clock.advance(HOUR_MS)
        response = await s.sync(ALICE, filter=ONE)

        assert section(response, room_id) == []
        (event,) = joined(response, room_id)["timeline"]["events"]
        assert TTL not in event["unsigned"]
        assert event["msc4354_sticky"] == {"duration_ms": HOUR_MS}


async def test_events_are_delivered_across_a_gap(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        token = (await s.sync(ALICE))["next_batch"]
        await stick(s.world, room_id, BOB, "sticky")
        for n in range(3):
            await s.world.send(room_id, BOB, f"plain {n}")

        response = await s.sync(ALICE, token, filter=ONE)

        assert joined(response, room_id)["timeline"]["limited"]
        assert timeline(response, room_id) == ["plain 2"]
        assert section(response, room_id) == ["sticky"]
        assert "rooms" not in await s.sync(ALICE, response["next_batch"], filter=ONE)


async def test_filter_of_timelines_does_not_apply(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, BOB, "sticky")
        nothing: dict[str, Any] = {"room": {"timeline": {"types": []}}}
        fields = {**nothing, "event_fields": ["content.body"]}

        assert section(await s.sync(ALICE, filter=nothing), room_id) == ["sticky"]
        room = joined(await s.sync(ALICE, filter=fields), room_id)
        assert room["msc4354_sticky"]["events"] == [{"content": {"body": "sticky"}}]
        other_rooms = {"room": {"not_rooms": [room_id]}}
        assert "rooms" not in await s.sync(ALICE, filter=other_rooms)


async def test_waiting_client_gets_the_event_once(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        token = (await s.sync(ALICE))["next_batch"]
        await stick(s.world, room_id, BOB, "sticky")

        response = await s.sync(ALICE, token, timeout_ms=5000)

        assert timeline(response, room_id) == ["sticky"]
        assert section(response, room_id) == []


async def test_many_events_come_in_several_responses_earliest_first(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        other_id = await s.world.create_room(ALICE, join=[BOB])
        texts = [f"{n}" for n in range(250)]
        for n, text in enumerate(texts):
            await stick(s.world, (room_id, other_id)[n % 2], BOB, text)
        await s.world.send(room_id, BOB, "plain")
        await s.world.send(other_id, BOB, "plain")

        received: list[list[str]] = []
        token = None
        for _ in range(3):
            response = await s.sync(ALICE, token, filter=ONE)
            token = response["next_batch"]
            page = section(response, room_id) + section(response, other_id)
            received.append(sorted(page, key=int))

        assert received == [texts[:100], texts[100:200], texts[200:]]
        assert len(received[0]) == MAX_EVENTS
        assert "_~" not in str(token)
        assert "rooms" not in await s.sync(ALICE, token, filter=ONE)


async def test_new_events_wait_behind_those_that_did_not_fit(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, BOB, *(f"{n}" for n in range(150)))
        first = await s.sync(ALICE, filter=ONE)
        await stick(s.world, room_id, BOB, "later")
        await s.world.send(room_id, BOB, "plain")

        second = await s.sync(ALICE, first["next_batch"], filter=ONE)

        assert section(second, room_id) == [*(f"{n}" for n in range(100, 150)), "later"]


async def test_joining_brings_all_sticky_events_of_the_room(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        known = await s.world.create_room(ALICE, join=[CAROL])
        await stick(s.world, known, ALICE, "known")
        await stick(s.world, room_id, BOB, "before")
        token = (await s.sync(CAROL))["next_batch"]

        await s.world.join(room_id, CAROL)
        response = await s.sync(CAROL, token, filter=ONE)

        assert section(response, room_id) == ["before"]
        assert section(response, known) == []


async def test_joined_room_with_more_than_fit_is_delivered_completely(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        known = await s.world.create_room(ALICE, join=[CAROL])
        texts = [f"{n}" for n in range(120)]
        await stick(s.world, room_id, BOB, *texts)
        await stick(s.world, known, ALICE, "known")
        token = (await s.sync(CAROL))["next_batch"]
        await s.world.join(room_id, CAROL)

        received: list[str] = []
        response = {"next_batch": token}
        for _ in range(2):
            response = await s.sync(CAROL, response["next_batch"], filter=ONE)
            received += section(response, room_id)

        assert received == texts
        # What follows the last one that fit is sent once more.
        assert section(response, known) == ["known"]
        assert "rooms" not in await s.sync(CAROL, response["next_batch"], filter=ONE)


@pytest.mark.parametrize("visibility", ["joined", "invited"])
async def test_history_visibility_does_not_hide_sticky_events(
    database: Database, visibility: str
) -> None:
    hidden = Draft("m.room.history_visibility", ALICE, {"history_visibility": visibility}, "")
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB], state=[hidden])
        await s.world.send(room_id, BOB, "plain")
        await stick(s.world, room_id, BOB, "sticky")
        await s.world.join(room_id, CAROL)

        assert section(await s.sync(CAROL, filter=ONE), room_id) == ["sticky"]
        assert await s.reading.bodies(CAROL, room_id) == ["sticky"]
        assert await s.reading.bodies(BOB, room_id) == ["plain", "sticky"]
        s.world.clock.advance(HOUR_MS)
        assert section(await s.sync(CAROL, filter=ONE), room_id) == []
        assert await s.reading.bodies(CAROL, room_id) == []


async def test_ignored_users_and_redacted_events_are_left_out(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL])
        await stick(s.world, room_id, BOB, "ignored")
        (redacted,) = await stick(s.world, room_id, CAROL, "redacted")
        await stick(s.world, room_id, CAROL, "shown")
        await s.world.append(room_id, Draft("m.room.redaction", CAROL, {}, redacts=redacted))
        await s.set_account_data(ALICE, "m.ignored_user_list", {"ignored_users": {BOB: {}}})

        response = await s.sync(ALICE, filter=ONE)

        assert section(response, room_id) == ["shown"]
        assert await sticky_rows(database) == 2


async def test_users_who_left_get_none(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, ALICE, "sticky")
        token = (await s.sync(BOB))["next_batch"]
        await stick(s.world, room_id, ALICE, "later")
        await s.world.send(room_id, ALICE, "plain")
        await s.world.leave(room_id, BOB)
        await stick(s.world, room_id, ALICE, "after")

        response = await s.sync(BOB, token, filter=ONE)

        assert list(response["rooms"]) == ["leave"]
        assert "msc4354_sticky" not in response["rooms"]["leave"][room_id]


async def test_event_with_a_timestamp_in_the_future_expires_by_the_time_of_receipt(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        later_ms = s.world.clock.now_ms() + 24 * HOUR_MS
        draft = sticky(BOB, "sticky", 10 * MINUTE_MS)
        future = Draft(
            draft.type, BOB, draft.content, origin_server_ts=later_ms, sticky_ms=draft.sticky_ms
        )
        await s.world.append(room_id, future)

        s.world.clock.advance(MINUTE_MS)
        (event,) = joined(await s.sync(ALICE, filter=ONE), room_id)["timeline"]["events"]
        assert event["unsigned"][TTL] == 9 * MINUTE_MS
        await s.world.send(room_id, BOB, "plain")
        assert section(await s.sync(ALICE, filter=ONE), room_id) == ["sticky"]

        s.world.clock.advance(9 * MINUTE_MS)
        response = await s.sync(ALICE)
        assert TTL not in joined(response, room_id)["timeline"]["events"][-2]["unsigned"]
        assert section(await s.sync(ALICE, filter=ONE), room_id) == []


async def test_process_that_does_not_write_delivers_them(database: Database) -> None:
    neighbours, (main, reader) = Neighbourhood(), main_and_reader()
    async with (
        open_syncing(database, main, neighbours=neighbours) as at_main,
        open_syncing(
            database, reader, neighbours=neighbours, clock=at_main.world.clock
        ) as at_reader,
    ):
        room_id = await at_main.world.create_room(ALICE, join=[BOB])
        await stick(at_main.world, room_id, BOB, "before")
        token = (await at_main.sync(ALICE))["next_batch"]
        redacted, _ = await stick(at_main.world, room_id, BOB, "redacted", "after")
        await at_main.world.append(room_id, Draft("m.room.redaction", BOB, {}, redacts=redacted))

        response = await at_reader.sync(ALICE, token, filter=ONE, timeout_ms=5000)
        again = await at_reader.sync(ALICE, filter=ONE)

        assert section(response, room_id) == ["after"]
        assert section(again, room_id) == ["before", "after"]


async def test_restarted_process_goes_on(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, BOB, "0")
        token = (await s.sync(ALICE))["next_batch"]
        await stick(s.world, room_id, BOB, *(f"{n}" for n in range(1, 151)))
        await s.world.send(room_id, BOB, "plain")
        token = (await s.sync(ALICE, token, filter=ONE))["next_batch"]
        clock = s.world.clock

    clock.advance(MINUTE_MS)
    async with open_syncing(database, clock=clock) as s:
        response = await s.sync(ALICE, token, filter=ONE)

        assert section(response, room_id) == [f"{n}" for n in range(101, 151)]
        event = joined(response, room_id)["msc4354_sticky"]["events"][0]
        assert event["unsigned"][TTL] == HOUR_MS - MINUTE_MS


async def sticky_rows(database: Database) -> int:
    async def count(tx: Any) -> Any:
        return await tx.fetchval("SELECT count(*) FROM sticky_events")

    return int(await database.read(count))


async def test_cleanup_deletes_expired_rows_and_a_purge_those_of_its_events(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        _, long = await s.world.append(
            room_id, sticky(BOB, "short", MINUTE_MS), sticky(BOB, "long")
        )
        token = (await s.sync(ALICE))["next_batch"]
        await s.world.send(room_id, BOB, "plain")
        s.world.clock.advance(MINUTE_MS)

        deleted = await s.services.core.rooms.cleanup.delete_expired_sticky_events()
        remaining = await sticky_rows(database)
        await database.write(purge.delete_events, [(long.stream_id, long.event_id)])
        s.world.events.forget(long.event_id)

        assert (deleted, remaining, await sticky_rows(database)) == (1, 1, 0)
        assert section(await s.sync(ALICE, filter=ONE), room_id) == []
        assert section(await s.sync(ALICE, token, filter=ONE), room_id) == []


@pytest.mark.parametrize("most", [200, 20, 5])
async def test_pages_are_the_same_whatever_is_in_memory(database: Database, most: int) -> None:
    async with open_syncing(database) as s:
        large = await s.world.create_room(ALICE, join=[BOB])
        small = await s.world.create_room(ALICE, join=[BOB])
        new = await s.world.create_room(BOB)
        await stick(s.world, new, BOB, *(f"new {n}" for n in range(12)))
        await stick(s.world, large, BOB, "received")
        since = s.world.feed.position(EVENTS)
        await stick(s.world, large, BOB, *(f"{n}" for n in range(70)))
        await stick(s.world, small, BOB, "small")
        await stick(s.world, large, BOB, *(f"{n}" for n in range(70, 120)))
        upto = s.world.feed.position(EVENTS)
        grown = StickyEvents(database, s.world.feed, s.world.clock, max_in_memory=most)
        scope = StickyScope((large, small).__contains__, lambda: [large, small], [new])

        for _ in range(2):
            first = await grown.page(scope, since, upto, 100)
            assert first.reached is not None
            old = StickyScope(scope.includes, scope.rooms)
            second = await grown.page(old, first.reached, upto, 100)
            records = [*first.records, *second.records]
            assert len(first.records) == 100
            assert second.reached is None
            assert [record.stream_id for record in records] == sorted(
                {record.stream_id for record in records}
            )
            assert len(records) == 12 + 121
            await stick(s.world, large, ALICE, "later")


async def test_sync_without_sticky_events_reads_nothing(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_syncing(counting) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await stick(s.world, room_id, BOB, "sticky")
        quiet = await s.world.create_room(CAROL, join=[BOB])
        token = (await s.sync(CAROL))["next_batch"]
        await s.world.send(quiet, BOB, "plain")
        await wait_until_quiet(s.process)
        count.units.clear()

        await s.sync(CAROL, token)
        await s.sync(CAROL)
        await s.sync(ALICE)

        assert not {"list_unexpired", "list_rooms", "list_in_rooms"} & set(count.units)


async def test_flood_in_one_room_costs_nothing_in_others(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_syncing(counting) as s:
        flooded = await s.world.create_room(ALICE, join=[BOB])
        other = await s.world.create_room(CAROL, join=[BOB])
        await stick(s.world, other, BOB, "0", "1")
        sticky_events = StickyEvents(counting, s.world.feed, s.world.clock, max_in_memory=50)
        everything = StickyScope(lambda room_id: True, lambda: [flooded, other])
        only_other = StickyScope(other.__eq__, lambda: [other])
        upto = s.world.feed.position(EVENTS)
        await sticky_events.page(everything, None, upto, 100)

        await stick(s.world, flooded, BOB, *(f"{n}" for n in range(60)))
        upto = s.world.feed.position(EVENTS)
        count.units.clear()
        assert len((await sticky_events.page(only_other, None, upto, 100)).records) == 2
        assert "list_in_rooms" not in count.units
        assert len((await sticky_events.page(everything, upto, upto, 100)).records) == 0
        assert "list_in_rooms" not in count.units
        assert len((await sticky_events.page(everything, None, upto, 100)).records) == 62
        assert count.units.count("list_in_rooms") == 1

        s.world.clock.advance(HOUR_MS)
        await stick(s.world, flooded, BOB, "after")
        upto = s.world.feed.position(EVENTS)
        count.units.clear()
        assert len((await sticky_events.page(everything, None, upto, 100)).records) == 1
        assert "list_in_rooms" not in count.units


async def test_first_sync_after_a_restart_says_what_is_sticky(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        later_ms = s.world.clock.now_ms() + 24 * HOUR_MS
        content = {"msgtype": "m.text", "body": "future"}
        future = Draft(
            "m.room.message", BOB, content, origin_server_ts=later_ms, sticky_ms=10 * MINUTE_MS
        )
        await s.world.append(room_id, future, sticky(BOB, "sticky"))
        await s.world.send(room_id, BOB, "plain")
        clock = s.world.clock

    clock.advance(MINUTE_MS)
    async with open_syncing(database, clock=clock) as s:
        room = joined(await s.sync(ALICE), room_id)

        remaining = [event["unsigned"].get(TTL) for event in room["timeline"]["events"][-3:]]
        assert bodies(room) == ["future", "sticky", "plain"]
        assert remaining == [9 * MINUTE_MS, 59 * MINUTE_MS, None]
        assert "msc4354_sticky" not in room
