"""Invites that their target does not want: refused, or never shown."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.invite_permission import FINER, STABLE
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import open_sliding
from tests.support.syncing import open_syncing

V3 = "/_matrix/client/v3"
BLOCK_ALL = {"default_action": "block"}
IGNORE_ALICE = {"ignored_users": [ALICE]}


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


async def test_every_way_to_invite_is_refused(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    acts.own.data[BOB, None, STABLE] = BLOCK_ALL
    client = acts.client()

    answers = [
        await client.post(f"{V3}/rooms/{room_id}/invite", {"user_id": BOB}, token="alice"),
        await client.put(
            f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}",
            {"membership": "invite"},
            token="alice",
        ),
        await client.post(f"{V3}/createRoom", {"invite": [CAROL, BOB]}, token="alice"),
    ]

    assert [(one.status, one.errcode) for one in answers] == [(403, "M_INVITE_BLOCKED")] * 3


async def test_an_ignored_invite_goes_through(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    acts.own.data[BOB, None, FINER] = IGNORE_ALICE

    answer = await acts.client().post(
        f"{V3}/rooms/{room_id}/invite", {"user_id": BOB}, token="alice"
    )

    assert answer.status == 200


@pytest.mark.parametrize(
    ("event_type", "content"),
    [(STABLE, BLOCK_ALL), (FINER, IGNORE_ALICE), ("m.ignored_user_list", {ALICE: {}})],
)
async def test_unwanted_invites_are_not_shown(
    database: Database, event_type: str, content: Any
) -> None:
    async with open_syncing(database) as syncing:
        room_id = await syncing.world.create_room(ALICE, invite=[BOB])
        if event_type == "m.ignored_user_list":
            syncing.reading.wishes.ignored[BOB] = set(content)
        else:
            syncing.tables.set_account_data(BOB, event_type, content)

        hidden = await syncing.sync(BOB)
        shown = await syncing.sync(CAROL)

        assert room_id not in hidden.get("rooms", {}).get("invite", {})
        assert "invite" not in shown.get("rooms", {})


@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        (STABLE, BLOCK_ALL),
        (FINER, IGNORE_ALICE),
        ("m.ignored_user_list", {"ignored_users": {ALICE: {}}}),
    ],
)
async def test_windows_leave_unwanted_invites_out(
    database: Database, event_type: str, content: Any
) -> None:
    async with open_sliding(database) as sliding:
        room_id = await sliding.world.create_room(ALICE, invite=[BOB])

        before = await sliding.sync(BOB)
        sliding.tables.set_account_data(BOB, event_type, content)
        after = await sliding.sync(BOB)
        sliding.tables.set_account_data(BOB, event_type, {})
        again = await sliding.sync(BOB)

        assert list(before["rooms"]) == [room_id]
        assert after["rooms"] == {}
        assert list(again["rooms"]) == [room_id]
