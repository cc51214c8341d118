"""Dummy events limit the forward extremities of rooms."""

import pytest

from hs.core.events.event_types import DUMMY
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Tx
from tests.services.federation.inbound.inbound_scene import Inbound
from tests.support.peers import ADMIN, CORA
from tests.support.rooms import ALICE
from tests.support.syncing import Syncing

HI = ("m.room.message", {"body": "hi"})
LIMITS = "forward extremities"


async def senders_of_dummies(tx: Tx) -> list[str]:
    """Return who has sent dummy events."""
    rows = await tx.fetch("SELECT sender FROM events WHERE type = 'org.matrix.dummy_event'")
    return [row[0] for row in rows]


async def fork(inbound: Inbound, count: int) -> None:
    """Receive events that all follow the same one."""
    ends = inbound.history.ends[:]
    events = [inbound.history.draft(CORA, *HI, after=ends) for _ in range(count)]
    for number in range(1, count, 2):
        events[number] = inbound.history.draft(ADMIN, "x.y", {"n": number}, "", after=ends)
    for start in range(0, count, 50):
        results = await inbound.send(*events[start : start + 50])
        assert set(map(str, results.values())) == {"{}"}
    assert await inbound.status(events[0]) is EventStatus.ACCEPTED


async def test_many_forward_extremities_are_joined(inbound: Inbound) -> None:
    rooms = inbound.server.world.rooms

    async def is_limited() -> bool:
        return rooms.extremity_count(inbound.room_id) <= 10

    async with inbound.server.process.duties(LIMITS):
        await fork(inbound, 60)
        await inbound.wait_until(is_limited)

    senders = await inbound.server.world.database.read(senders_of_dummies)
    assert set(senders) == {ALICE}
    assert len(senders) <= 60 // 9 + 1


async def test_room_where_no_local_user_may_send_is_left(
    inbound: Inbound, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    levels = {"users": {ADMIN: 100, CORA: 50}, "events_default": 50}
    await inbound.send(inbound.history.add(ADMIN, "m.room.power_levels", levels, ""))

    async def has_failed() -> bool:
        return "no local user may send" in caplog.text

    async with inbound.server.process.duties(LIMITS):
        await fork(inbound, 30)
        await inbound.wait_until(has_failed)

    assert await inbound.server.world.database.read(senders_of_dummies) == []


async def test_dummy_events_are_not_shown_to_clients(inbound: Inbound) -> None:
    server, room_id = inbound.server, inbound.room_id
    client = Syncing(server.world)
    since = (await client.sync(ALICE))["next_batch"]

    await server.world.append(room_id, Draft(DUMMY, ALICE, {}))
    theirs = inbound.history.add(CORA, DUMMY, {})
    await inbound.send(theirs)

    assert room_id not in (await client.sync(ALICE, since)).get("rooms", {}).get("join", {})
    room = (await client.sync(ALICE))["rooms"]["join"][room_id]
    assert DUMMY not in {event["type"] for event in room["timeline"]["events"]}
    assert await inbound.status(theirs) is EventStatus.HIDDEN
    assert server.world.rooms.extremity_count(room_id) == 2
