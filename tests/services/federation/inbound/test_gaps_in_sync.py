"""Clients are told of events that this server lacks."""

import pytest

from hs.core.ids import UserID
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import Inbound, open_inbound
from tests.support.peers import ADMIN, CORA
from tests.support.rooms import ALICE
from tests.support.sliding import Sliding, bodies
from tests.support.syncing import Syncing

TEXT = "m.room.message"
WITH_90_EVENTS = {"room": {"timeline": {"limit": 90}}}


async def miss_events(inbound: Inbound) -> None:
    """Receive one event, then miss 300, then receive the last."""
    history = inbound.history
    before = history.add(CORA, TEXT, {"body": "before"})
    inbound.serve_history(between=3)
    for number in range(300):
        history.add(CORA, TEXT, {"body": f"missed {number}"})
    history.add(ADMIN, "m.room.topic", {"topic": "missed"}, "")
    for number in range(40):
        history.add(CORA, TEXT, {"body": f"{number}"})
    last = history.add(CORA, TEXT, {"body": "last"})
    await inbound.send(before)
    await inbound.send(last)
    await inbound.work()


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_sync_begins_after_the_gap(database: Database, is_restarted: bool) -> None:
    async with open_inbound(database) as inbound:
        client = Syncing(inbound.server.world)
        since = (await client.sync(ALICE))["next_batch"]
        await miss_events(inbound)
        response = await client.sync(ALICE, since, filter=WITH_90_EVENTS)
    if is_restarted:
        async with open_inbound(database, inbound.history, is_new=False) as restarted:
            client = Syncing(restarted.server.world)
            response = await client.sync(ALICE, since, filter=WITH_90_EVENTS)

    room = response["rooms"]["join"][inbound.room_id]
    shown = [event["content"]["body"] for event in room["timeline"]["events"]]
    assert room["timeline"]["limited"] is True
    assert "before" not in shown
    assert shown[-1] == "last"
    topics = [event["content"] for event in room["state"]["events"] if "topic" in event["content"]]
    assert topics == [{"topic": "missed"}]


async def test_sliding_sync_begins_after_the_gap(database: Database) -> None:
    async with open_inbound(database) as inbound:
        client = Sliding(inbound.server.world)
        first = await client.sync(ALICE)
        await miss_events(inbound)
        response = await client.sync(UserID(ALICE), first["pos"])

    room = response["rooms"][inbound.room_id]
    assert room["limited"] is True
    assert "before" not in bodies(room)
    assert bodies(room)[-1] == "last"
