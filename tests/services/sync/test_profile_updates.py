"""Profile updates: to whom they are sent, once, and how much of them."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.stream_def import ANY_PROCESS
from hs.core.streams import PROFILE_UPDATES
from hs.core.sync_token import SYNCED_STREAMS
from hs.lib.clock import FixedClock
from hs.services.rooms.append.drafts import Draft
from hs.services.sync import profile_updates
from hs.storage.accounts.profile_updates import MAX_DELETED, list_updates
from hs.storage.database import Database
from tests.support.composition import (
    SETTINGS,
    Neighbourhood,
    open_process,
    worker_settings,
)
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet
from tests.support.syncing import Syncing, SyncScene, main_and_reader, news, open_syncing

STATUS = "m.status"
PROFILES = "org.matrix.msc4429.profile_fields"
ASKED = {PROFILES: {"ids": [STATUS, "displayname"]}}
LAZY = {**ASKED, "room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}


async def put(s: SyncScene, user_id: UserID, value: Any, field: str = STATUS) -> None:
    await s.set_profile_field(user_id, field, value)


async def delete(s: SyncScene, user_id: UserID, field: str = STATUS) -> None:
    await s.delete_profile_field(user_id, field)


def users(response: dict[str, Any]) -> dict[str, Any]:
    entries = response.get("org.matrix.msc4429.users", {})
    return {user_id: entry["profile_updates"] for user_id, entry in entries.items()}


async def test_latest_change_of_a_shared_user_is_sent_once(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

        await put(s, BOB, {"text": "away"})
        await put(s, BOB, {"text": "back"})
        await put(s, BOB, 1, "org.example.other")
        second = await s.sync(ALICE, since, filter=ASKED)
        third = await s.sync(ALICE, second["next_batch"], filter=ASKED)

        assert users(second) == {BOB: {STATUS: {"text": "back"}}}
        assert news(third) == {}


async def test_deleted_field_is_null_and_own_changes_are_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        await put(s, BOB, "away")
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

        await delete(s, BOB)
        await delete(s, BOB)
        await put(s, ALICE, "here")

        response = await s.sync(ALICE, since, filter=ASKED)
        assert users(response) == {BOB: {STATUS: None}, ALICE: {STATUS: "here"}}


async def test_first_sync_has_the_requested_fields_of_all_who_share_a_room(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        for user_id in (ALICE, BOB, CAROL):
            await put(s, user_id, "here")
            await put(s, user_id, 1, "org.example.other")

        response = await s.sync(ALICE, filter=ASKED)

        assert users(response) == {ALICE: {STATUS: "here"}, BOB: {STATUS: "here"}}


@pytest.mark.parametrize("place", ["syncing here", "in memory", "elsewhere"])
async def test_waiting_client_is_woken_only_if_it_asked(database: Database, place: str) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB, CAROL])

    async with open_syncing(database) as s:
        if place == "syncing here":
            await s.sync(BOB)
        elif place == "in memory":
            await s.world.memberships.rooms_of(BOB)
        asked = await s.sync(ALICE, filter=ASKED)
        plain = await s.sync(CAROL)
        changes = s.notifier._has_watch[CAROL].changes

        with trio.fail_after(30):
            async with s.process.duties("remote profiles"):
                woken = await poll_while(s, asked["next_batch"], BOB, "away")

        assert users(woken) == {BOB: {STATUS: "away"}}
        assert s.notifier._has_watch[CAROL].changes == changes
        assert news(await s.sync(CAROL, plain["next_batch"])) == {}


async def poll_while(s: Syncing, since: str, user_id: UserID, value: str) -> Any:
    """Change a profile while Alice waits, and return the response that has the change."""
    received: list[Any] = []

    async def poll() -> None:
        # The first responses have the presence of others.
        token = since
        while not received or not users(received[-1]):
            received.append(await s.sync(ALICE, token, filter=ASKED, timeout_ms=60_000))
            token = received[-1]["next_batch"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        while not s.notifier.waiting:
            await trio.lowlevel.checkpoint()
        await put(s, user_id, value)
    return received[-1]


async def test_ignored_users_are_not_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB, CAROL])
        await put(s, BOB, "old")
        ignored: dict[str, Any] = {"ignored_users": {BOB: {}, ALICE: {}}}
        await s.set_account_data(ALICE, "m.ignored_user_list", ignored)
        first = await s.sync(ALICE, filter=ASKED)

        for user_id in (ALICE, BOB, CAROL):
            await put(s, user_id, "new")

        second = await s.sync(ALICE, first["next_batch"], filter=ASKED)
        assert users(first) == {}
        assert users(second) == {ALICE: {STATUS: "new"}, CAROL: {STATUS: "new"}}


async def test_users_who_have_left_the_last_shared_room_are_not_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

        await put(s, BOB, "before")
        await s.world.leave(room_id, BOB)
        await put(s, BOB, "after")

        assert users(await s.sync(ALICE, since, filter=ASKED)) == {}


async def test_token_of_an_earlier_release_gets_the_changes_since_then(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        token = (await s.sync(ALICE, filter=ASKED))["next_batch"]
        earlier = token.rpartition("_")[0]
        await put(s, BOB, "away")

        response = await s.sync(ALICE, earlier, filter=ASKED)

        assert token.count("_") == len(SYNCED_STREAMS) - 1
        assert users(response) == {BOB: {STATUS: "away"}}
        assert news(await s.sync(ALICE, response["next_batch"], filter=ASKED)) == {}


async def test_profiles_cost_no_statement_without_changes(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_syncing(counting) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await put(s, BOB, "away")
        statements: list[list[str]] = []

        for sync_filter in (None, ASKED):
            since = (await s.sync(ALICE, filter=sync_filter))["next_batch"]
            await s.world.send(room_id, BOB, "news")
            await wait_until_quiet(s.process)
            count.units.clear()
            await s.sync(ALICE, since, filter=sync_filter)
            statements.append(sorted(count.units))

        assert statements[0] == statements[1]


async def test_change_is_written_without_looking_rooms_up(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_syncing(counting) as s:
        await s.world.create_room(ALICE, join=[BOB])
        await s.sync(ALICE, filter=ASKED)
        count.statements.clear()
        count.units.clear()

        await put(s, ALICE, "away")

    assert count.statements
    assert count.units == []
    assert not any("current_state" in statement for statement in count.statements)


async def test_users_who_share_no_room_are_not_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE)
        await s.world.create_room(CAROL)
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

        await put(s, CAROL, "away")

        assert news(await s.sync(ALICE, since, filter=ASKED)) == {}


async def test_profiles_of_new_contacts_are_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        other_id = await s.world.create_room(CAROL)
        await put(s, BOB, "old")
        await put(s, CAROL, "old")
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

        await s.world.join(room_id, BOB)
        after_join = await s.sync(ALICE, since, filter=ASKED)
        await s.world.join(other_id, ALICE)
        after_own_join = await s.sync(ALICE, after_join["next_batch"], filter=ASKED)

        assert users(after_join) == {BOB: {STATUS: "old"}}
        assert users(after_own_join) == {CAROL: {STATUS: "old"}}


async def test_lazy_loading_limits_profiles_to_the_members_that_are_sent(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        # A room with a name has no heroes.
        name = Draft("m.room.name", ALICE, {"name": "Room"}, "")
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL], state=[name])
        await put(s, BOB, "b")
        await put(s, CAROL, "c")
        await s.world.send(room_id, BOB, "last")

        first = await s.sync(ALICE, filter=LAZY)
        await s.world.send(room_id, CAROL, "news")
        second = await s.sync(ALICE, first["next_batch"], filter=LAZY)
        await s.world.send(room_id, CAROL, "more")
        third = await s.sync(ALICE, second["next_batch"], filter=LAZY)

        assert users(first) == {BOB: {STATUS: "b"}}
        assert users(second) == {CAROL: {STATUS: "c"}}
        assert users(third) == {}


async def test_former_members_are_not_sent_with_their_member_events(database: Database) -> None:
    async with open_syncing(database) as s:
        name = Draft("m.room.name", ALICE, {"name": "Room"}, "")
        room_id = await s.world.create_room(ALICE, join=[BOB], state=[name])
        await put(s, BOB, "b")
        await s.world.send(room_id, BOB, "last")
        await s.world.leave(room_id, BOB)

        response = await s.sync(ALICE, filter=LAZY)

        assert users(response) == {}


async def test_member_events_of_known_users_do_not_repeat_profiles(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await put(s, BOB, "away")
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

        content = {"membership": "join", "displayname": "Bob"}
        await s.world.set_state(room_id, BOB, "m.room.member", content, BOB)

        assert users(await s.sync(ALICE, since, filter=ASKED)) == {}


async def test_changes_before_a_restart_are_sent_after_it(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]
        await put(s, BOB, "away")
        await put(s, CAROL, "away")

    async with open_syncing(database) as s:
        assert users(await s.sync(ALICE, since, filter=ASKED)) == {BOB: {STATUS: "away"}}


@pytest.mark.parametrize("limit", ["MAX_UPDATES", "MAX_BYTES"])
async def test_changes_beyond_the_limit_follow_in_the_next_response(
    database: Database, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]
        await put(s, BOB, "away")
        await put(s, BOB, "Bob", "displayname")
        await put(s, ALICE, "here")
        monkeypatch.setattr(profile_updates, limit, 1)
        monkeypatch.setattr(profile_updates, "_USERS_AT_ONCE", 1)
        seen: list[dict[str, Any]] = []

        for _ in range(4):
            response = await s.sync(ALICE, since, filter=ASKED)
            since = response["next_batch"]
            seen.append(users(response))

        merged = [(user, field) for page in seen for user in page for field in page[user]]
        assert sorted(merged) == [(ALICE, STATUS), (BOB, "displayname"), (BOB, STATUS)]
        assert all(len(page) <= 1 for page in seen)


async def test_changes_of_two_processes_at_once_are_sent_once_by_a_third(
    database: Database,
) -> None:
    neighbours, names = Neighbourhood(), ("main", "w1", "w2")
    numbers = range(5)
    async with AsyncExitStack() as stack:
        scenes: dict[str, Syncing] = {}
        clock = FixedClock()
        for name in names:
            others = [other for other in names if other != name]
            settings = worker_settings(SETTINGS, name, *others)
            opened = open_syncing(database, settings, neighbours=neighbours, clock=clock)
            scenes[name] = await stack.enter_async_context(opened)
        await scenes["main"].world.create_room(ALICE, join=[BOB, CAROL])
        since = {
            name: (await s.sync(ALICE, filter=ASKED))["next_batch"] for name, s in scenes.items()
        }

        async with trio.open_nursery() as nursery:
            for number in numbers:
                for name, user_id in (("w1", BOB), ("w2", CAROL)):
                    nursery.start_soon(put, scenes[name], user_id, number, f"org.example.f{number}")
        for s in scenes.values():
            await until_followed(s, 2 * len(numbers))

        fields = {PROFILES: {"ids": [f"org.example.f{number}" for number in numbers]}}
        expected = {f"org.example.f{number}": number for number in numbers}
        for name, s in scenes.items():
            response = await s.sync(ALICE, since[name], filter=fields)
            again = await s.sync(ALICE, response["next_batch"], filter=fields)
            assert users(response) == {BOB: expected, CAROL: expected}
            assert news(again) == {}


async def until_followed(s: SyncScene, position: int) -> None:
    """Wait until the process has received all profile updates up to a position."""
    assert await s.process.base.feed.wait_for(PROFILE_UPDATES, ANY_PROCESS, position, 30)


async def test_change_of_a_process_is_kept_while_the_main_process_is_down(
    database: Database,
) -> None:
    neighbours = Neighbourhood()
    main, worker = main_and_reader()
    async with open_syncing(database, main, neighbours=neighbours) as s:
        await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

    async with open_process(database, worker, neighbours=neighbours) as process:
        profiles = process.services.core.accounts.profiles
        await profiles.set_field(Requester(BOB), BOB, STATUS, "away")

    async with open_syncing(database, main, neighbours=Neighbourhood()) as s:
        assert users(await s.sync(ALICE, since, filter=ASKED)) == {BOB: {STATUS: "away"}}


@pytest.mark.parametrize("scans", [1, 10])
async def test_changes_among_many_of_others_are_found(
    database: Database, monkeypatch: pytest.MonkeyPatch, scans: int
) -> None:
    monkeypatch.setattr(profile_updates, "MAX_UPDATES", 2)
    monkeypatch.setattr(profile_updates, "MAX_SCANS", scans)
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]
        for number in range(5):
            await put(s, CAROL, number, f"org.example.f{number}")
        await put(s, BOB, "away")

    # After a restart, the process does not remember who has changed.
    async with open_syncing(database) as s:
        seen = []
        for _ in range(4):
            response = await s.sync(ALICE, since, filter=ASKED)
            since = response["next_batch"]
            seen.append(users(response))

        found = {BOB: {STATUS: "away"}}
        assert seen == ([{}, {}, found, {}] if scans == 1 else [found, {}, {}, {}])


async def test_number_of_remembered_deleted_fields_is_limited(database: Database) -> None:
    async with open_syncing(database) as s:
        for number in range(MAX_DELETED + 3):
            await put(s, ALICE, 1, f"org.example.f{number}")
            await delete(s, ALICE, f"org.example.f{number}")
        await put(s, ALICE, "here")

        updates = await database.read(list_updates, 0, 2**60, 1000)

        assert len(updates) == MAX_DELETED + 1
        assert updates[0].field == "org.example.f3"


async def test_equal_value_is_no_change(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        await put(s, BOB, [1])
        since = (await s.sync(ALICE, filter=ASKED))["next_batch"]

        await put(s, BOB, [1])
        unchanged = await s.sync(ALICE, since, filter=ASKED)
        await put(s, BOB, [True])

        assert news(unchanged) == {}
        assert users(await s.sync(ALICE, since, filter=ASKED)) == {BOB: {STATUS: [True]}}
