"""Unwanted invites: blocked, or not shown."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.invite_permission import MSC4155_TYPE, STABLE_TYPE
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import open_sliding
from tests.support.syncing import open_syncing

V3 = "/_matrix/client/v3"
BLOCK_ALL = {"default_action": "block"}
IGNORE_ALICE = {"ignored_users": [ALICE]}


@pytest.fixture
async def actions(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as actions:
        yield actions


async def test_invite_is_blocked_at_every_endpoint(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    actions.own.data[BOB, None, STABLE_TYPE] = BLOCK_ALL
    client = actions.client()

    responses = [
        await client.post(f"{V3}/rooms/{room_id}/invite", {"user_id": BOB}, token="alice"),
        await client.put(
            f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}",
            {"membership": "invite"},
            token="alice",
        ),
        await client.post(f"{V3}/createRoom", {"invite": [CAROL, BOB]}, token="alice"),
    ]

    assert [(response.status, response.errcode) for response in responses] == [
        (403, "M_INVITE_BLOCKED")
    ] * 3


async def test_ignored_invite_is_accepted(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    actions.own.data[BOB, None, MSC4155_TYPE] = IGNORE_ALICE

    response = await actions.client().post(
        f"{V3}/rooms/{room_id}/invite", {"user_id": BOB}, token="alice"
    )

    assert response.status == 200


@pytest.mark.parametrize(
    ("event_type", "content"),
    [(STABLE_TYPE, BLOCK_ALL), (MSC4155_TYPE, IGNORE_ALICE), ("m.ignored_user_list", {ALICE: {}})],
)
async def test_unwanted_invite_is_not_in_sync(
    database: Database, event_type: str, content: Any
) -> None:
    async with open_syncing(database) as syncing:
        room_id = await syncing.world.create_room(ALICE, invite=[BOB])
        if event_type == "m.ignored_user_list":
            syncing.reading.wishes.ignored[BOB] = set(content)
        else:
            syncing.tables.set_account_data(BOB, event_type, content)

        sync_of_bob = await syncing.sync(BOB)
        sync_of_carol = await syncing.sync(CAROL)

        assert room_id not in sync_of_bob.get("rooms", {}).get("invite", {})
        assert "invite" not in sync_of_carol.get("rooms", {})


@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        (STABLE_TYPE, BLOCK_ALL),
        (MSC4155_TYPE, IGNORE_ALICE),
        ("m.ignored_user_list", {"ignored_users": {ALICE: {}}}),
    ],
)
async def test_unwanted_invite_is_not_in_sliding_sync(
    database: Database, event_type: str, content: Any
) -> None:
    async with open_sliding(database) as sliding:
        room_id = await sliding.world.create_room(ALICE, invite=[BOB])

        before = await sliding.sync(BOB)
        sliding.tables.set_account_data(BOB, event_type, content)
        after = await sliding.sync(BOB)
        sliding.tables.set_account_data(BOB, event_type, {})
        after_reset = await sliding.sync(BOB)

        assert list(before["rooms"]) == [room_id]
        assert after["rooms"] == {}
        assert list(after_reset["rooms"]) == [room_id]
