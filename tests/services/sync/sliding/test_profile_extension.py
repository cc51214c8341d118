"""The extension of profiles: who is new to a client, what changed, and who is gone."""

from typing import Any

import pytest
import trio

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.services.sync import profile_updates
from hs.services.sync.sliding.profile_extension import PROFILES_EXTENSION
from hs.services.sync.sliding.request import MAX_PROFILE_FIELDS
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import Sliding, open_sliding, window
from tests.support.sql.counting import CountingDatabase, QueryCount, wait_until_quiet

STATUS = "m.status"
LAZY = window(state=[("m.room.member", "$LAZY")], limit=1)


async def sync(
    s: Sliding, pos: str | None = None, timeout_ms: int = 0, windows: Any = None, **more: Any
) -> tuple[Any, str]:
    profiles = {"enabled": True, "fields": [STATUS, "displayname"], **more}
    response = await s.sync(
        ALICE, pos, lists=windows, timeout_ms=timeout_ms, extensions={"profiles": profiles}
    )
    extension = response["extensions"].get(PROFILES_EXTENSION, {"users": {}})
    return extension["users"], response["pos"]


def updated(**values: Any) -> dict[UserID, Any]:
    users = {"alice": ALICE, "bob": BOB, "carol": CAROL}
    return {users[name]: {"updated": {STATUS: value}} for name, value in values.items()}


async def test_new_rooms_bring_the_requested_fields_of_their_members(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        for user_id in (ALICE, BOB, CAROL):
            await s.set_profile_field(user_id, STATUS, "here")
            await s.set_profile_field(user_id, "org.example.other", 1)

        first, pos = await sync(s)
        other_id = await s.world.create_room(CAROL)
        await s.world.join(other_id, ALICE)
        second, _ = await sync(s, pos)
        every_field, _ = await sync(s, fields=None)

        assert first == updated(alice="here", bob="here")
        assert second[CAROL] == {"updated": {STATUS: "here"}}
        assert every_field[BOB] == {"updated": {STATUS: "here", "org.example.other": 1}}


async def test_changes_of_all_who_share_a_room_are_sent_once(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        await s.set_profile_field(BOB, "displayname", "Bob")
        # The room is not in the list: it is empty.
        _, pos = await sync(s, windows={})

        await s.set_profile_field(BOB, STATUS, "away")
        await s.set_profile_field(ALICE, STATUS, "here")
        await s.set_profile_field(CAROL, STATUS, "away")
        await s.delete_profile_field(BOB, "displayname")
        second, pos = await sync(s, pos, windows={})
        third, _ = await sync(s, pos, windows={})

        assert second == {
            ALICE: {"updated": {STATUS: "here"}},
            BOB: {"updated": {STATUS: "away"}, "removed": ["displayname"]},
        }
        assert third == {}


async def test_change_wakes_a_waiting_client_that_asked(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        _, pos = await sync(s)
        received: list[Any] = []

        async def poll() -> None:
            received.append((await sync(s, pos, timeout_ms=60_000))[0])

        with trio.fail_after(30):
            async with s.process.duties("remote profiles"), trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                while not s.notifier.waiting:
                    await trio.lowlevel.checkpoint()
                await s.set_profile_field(BOB, STATUS, "away")

        assert received == [updated(bob="away")]


async def test_clients_that_do_not_ask_are_sent_nothing_and_not_woken(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        first = await s.sync(ALICE)
        changes = s.notifier._has_watch[ALICE].changes

        await s.set_profile_field(BOB, STATUS, "away")
        second = await s.sync(ALICE, first["pos"])

        assert PROFILES_EXTENSION not in first["extensions"]
        assert second["extensions"] == {}
        assert s.notifier._has_watch[ALICE].changes == changes


async def test_extension_costs_no_statement_without_changes(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_sliding(counting) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.set_profile_field(BOB, STATUS, "away")
        units: list[list[str]] = []

        for extensions in ({}, {"profiles": {"enabled": True}}):
            pos = (await s.sync(ALICE, extensions=extensions))["pos"]
            await s.world.send(room_id, BOB, "news")
            await wait_until_quiet(s.process)
            count.units.clear()
            await s.sync(ALICE, pos, extensions=extensions)
            units.append(sorted(count.units))

        assert units[0] == units[1]


async def test_user_who_left_the_last_shared_room_is_null(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        _, pos = await sync(s)

        await s.world.leave(room_id, BOB)
        await s.set_profile_field(BOB, STATUS, "away")

        assert (await sync(s, pos))[0] == {BOB: None}


async def test_new_members_of_a_room_are_sent(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE)
        await s.set_profile_field(BOB, STATUS, "here")
        _, pos = await sync(s)

        await s.world.join(room_id, BOB)

        assert (await sync(s, pos))[0] == updated(bob="here")


async def test_lazy_loading_limits_profiles_to_the_members_that_are_sent(
    database: Database,
) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL])
        await s.world.set_state(room_id, ALICE, "m.room.name", {"name": "Room"})
        await s.set_profile_field(BOB, STATUS, "here")
        await s.set_profile_field(CAROL, STATUS, "here")
        await s.world.send(room_id, BOB, "last")

        first, pos = await sync(s, windows=LAZY)
        await s.world.send(room_id, CAROL, "news")
        second, pos = await sync(s, pos, windows=LAZY)
        await s.world.send(room_id, CAROL, "more")
        third, _ = await sync(s, pos, windows=LAZY)

        assert first == updated(bob="here")
        assert second == updated(carol="here")
        assert third == {}


async def test_former_members_and_ignored_users_are_not_sent(database: Database) -> None:
    async with open_sliding(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB, CAROL])
        ignored: dict[str, Any] = {"ignored_users": {CAROL: {}}}
        await s.set_account_data(ALICE, "m.ignored_user_list", ignored)
        for user_id in (BOB, CAROL):
            await s.set_profile_field(user_id, STATUS, "here")
            await s.world.send(room_id, user_id, "last")
        await s.world.leave(room_id, BOB)

        lazy, _ = await sync(s, windows=window(state=[("m.room.member", "$LAZY")], limit=10))
        full, pos = await sync(s)
        await s.set_profile_field(CAROL, STATUS, "away")

        assert lazy == full == {}
        assert (await sync(s, pos))[0] == {}


async def test_lists_limit_the_extension(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        await s.set_profile_field(BOB, STATUS, "here")

        inside, _ = await sync(s, lists=["all"])
        outside, _ = await sync(s, lists=[], rooms=["*"])

        assert inside == updated(bob="here")
        assert outside == {}


async def test_changes_beyond_the_limit_follow_in_the_next_response(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        _, pos = await sync(s)
        await s.set_profile_field(BOB, STATUS, "away")
        await s.set_profile_field(ALICE, STATUS, "here")
        monkeypatch.setattr(profile_updates, "MAX_UPDATES", 1)

        first, pos = await sync(s, pos)
        second, pos = await sync(s, pos)
        third, _ = await sync(s, pos)

        assert (first, second, third) == (updated(bob="away"), updated(alice="here"), {})


async def test_response_that_was_lost_is_computed_again(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        _, pos = await sync(s)
        await s.set_profile_field(BOB, STATUS, "away")

        lost, _ = await sync(s, pos)

        assert (await sync(s, pos))[0] == lost == updated(bob="away")


async def test_too_many_fields_are_rejected(database: Database) -> None:
    async with open_sliding(database) as s:
        with pytest.raises(InvalidParam, match="fields of the profiles extension"):
            await sync(s, fields=["m.tz"] * (MAX_PROFILE_FIELDS + 1))
