"""Unwanted invites: blocked, or not shown."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.invite_permission import MSC4155_TYPE, STABLE_TYPE
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL

V3 = "/_matrix/client/v3"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
BLOCK_ALL = {"default_action": "block"}
IGNORE_ALICE = {"ignored_users": [ALICE]}
UNWANTED = [
    (STABLE_TYPE, BLOCK_ALL),
    (MSC4155_TYPE, IGNORE_ALICE),
    ("m.ignored_user_list", {"ignored_users": {ALICE: {}}}),
]


@pytest.fixture
async def actions(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as actions:
        yield actions


async def test_invite_is_blocked_at_every_endpoint(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    await actions.set_account_data(BOB, None, STABLE_TYPE, BLOCK_ALL)
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
    await actions.set_account_data(BOB, None, MSC4155_TYPE, IGNORE_ALICE)

    response = await actions.client().post(
        f"{V3}/rooms/{room_id}/invite", {"user_id": BOB}, token="alice"
    )

    assert response.status == 200


@pytest.mark.parametrize(("event_type", "content"), UNWANTED)
async def test_unwanted_invite_is_not_in_sync(
    actions: Actions, event_type: str, content: dict[str, Any]
) -> None:
    room_id = await actions.world.create_room(ALICE, invite=[BOB])
    await actions.set_account_data(BOB, None, event_type, content)

    sync_of_bob = (await actions.client().get(f"{V3}/sync", token="bob")).json
    sync_of_carol = (await actions.client().get(f"{V3}/sync", token="carol")).json

    assert room_id not in sync_of_bob.get("rooms", {}).get("invite", {})
    assert "invite" not in sync_of_carol.get("rooms", {})


async def rooms_in_sliding_sync(actions: Actions) -> list[str]:
    window = {"ranges": [[0, 99]], "required_state": [], "timeline_limit": 10}
    response = await actions.client().post(SLIDING, {"lists": {"all": window}}, token="bob")
    return list(response.json["rooms"])


@pytest.mark.parametrize(("event_type", "content"), UNWANTED)
async def test_unwanted_invite_is_not_in_sliding_sync(
    actions: Actions, event_type: str, content: dict[str, Any]
) -> None:
    room_id = await actions.world.create_room(ALICE, invite=[BOB])

    before = await rooms_in_sliding_sync(actions)
    await actions.set_account_data(BOB, None, event_type, content)
    after = await rooms_in_sliding_sync(actions)
    await actions.set_account_data(BOB, None, event_type, {})
    after_reset = await rooms_in_sliding_sync(actions)

    assert before == [room_id]
    assert after == []
    assert after_reset == [room_id]
