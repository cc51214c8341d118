"""Clients ask for the event of a time that lies in a gap of the stored history."""

from typing import Any

import pytest

from hs.core.errors import NotFound
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.requester import Requester
from hs.services.rooms.read.timelines import Direction
from tests.services.federation.history.test_scrolling_back import numbers, scroll, texts
from tests.services.federation.shared_rooms import join_through
from tests.support.federation import FederatedServer, ScriptedPeer, open_servers

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, BEA = UserID("@ann:far.example"), UserID("@bea:near.example")
STEP_MS = 10_000


async def say_at_intervals(far: FederatedServer, room_id: RoomID, count: int) -> list[EventID]:
    """Send messages, with time between them."""
    sent = []
    for number in range(count):
        far.world.clock.advance(STEP_MS)
        sent.append((await far.world.send(room_id, ANN, str(number))).event_id)
    far.world.clock.advance(STEP_MS)
    return sent


async def find(server: FederatedServer, room_id: RoomID, ts: int, direction: Direction) -> EventID:
    """Return the event closest to a time, as Bea may find it."""
    timestamps = server.process.services.reading.timestamps
    return (await timestamps.closest_event(Requester(BEA), room_id, ts, direction)).event_id


@pytest.mark.parametrize("direction", ["f", "b"])
async def test_closest_event_is_fetched_and_can_be_read(direction: Direction) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        start_ms = far.world.clock.now_ms()
        room_id = await far.world.create_room(ANN)
        sent = await say_at_intervals(far, room_id, 200)
        await join_through(far, near, room_id, BEA)
        shift = -1 if direction == "f" else 1

        found = await find(near, room_id, start_ms + 100 * STEP_MS + shift, direction)
        event = await near.process.services.reading.timelines.event(Requester(BEA), found, room_id)
        timeline = await scroll(near.process, room_id)
        requests = len(near.network.uris(FAR))
        again = await find(near, room_id, start_ms + 50 * STEP_MS + shift, direction)

        assert len(near.network.uris(FAR)) == requests
    assert found == sent[99]
    assert b'"99"' in event
    assert texts(timeline) == numbers(200)
    assert again == sent[49]


async def test_time_after_the_stored_events_needs_no_request() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await say_at_intervals(far, room_id, 3)
        join = await join_through(far, near, room_id, BEA)

        found = await find(near, room_id, far.world.clock.now_ms() + 1, "b")

        assert not [uri for uri in near.network.uris(FAR) if "timestamp" in uri]
    assert found == join.event_id


@pytest.mark.parametrize(
    "response",
    [
        (200, {}),
        (200, {"event_id": "x", "origin_server_ts": 5}),
        (200, {"event_id": "$unknown", "origin_server_ts": 5}),
        (200, {"event_id": "$unknown", "origin_server_ts": "5"}),
        (404, {"errcode": "M_NOT_FOUND", "error": "none"}),
        (500, {}),
    ],
)
async def test_wrong_answers_are_ignored(response: Any) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await say_at_intervals(far, room_id, 3)
        join = await join_through(far, near, room_id, BEA)
        ScriptedPeer(FAR, near.network, {"GET /_matrix/federation/v1/timestamp": response})

        assert await find(near, room_id, 0, "f") == join.event_id
        with pytest.raises(NotFound):
            await find(near, room_id, 10, "b")
