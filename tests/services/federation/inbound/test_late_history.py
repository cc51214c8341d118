"""Events from before the join that arrive after it."""

from typing import Any

import pytest

from hs.core.ids import EventID
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import Inbound, open_inbound
from tests.support.peers import ADMIN, CORA

HI = ("m.room.message", {"body": "hi"})
TOPIC = ("m.room.topic", {"topic": "hi"}, "")


async def extremities(inbound: Inbound) -> set[EventID]:
    """Return the forward extremities of the room, in memory and in the database."""
    owner = inbound.server.process.services.core.rooms.owner
    assert owner is not None
    async with owner.hot.hold(inbound.room_id) as room:
        return {end.event_id for end in room.head.extremities}


async def test_history_that_arrives_late_leaves_no_extremity(database: Database) -> None:
    async with open_inbound(database) as inbound:
        history = inbound.history
        assert history.first is not None
        events = list(history.events.values())
        state = await inbound.server.world.states.current(inbound.room_id)

        for event in events:
            await inbound.send(event)

        assert await extremities(inbound) == {history.first}
        assert dict(await inbound.server.world.states.current(inbound.room_id)) == dict(state)
        for event in events:
            assert await inbound.status(event) is EventStatus.ACCEPTED
    async with open_inbound(database, history, is_new=False) as inbound:
        assert await extremities(inbound) == {history.first}
        assert dict(await inbound.server.world.states.current(inbound.room_id)) == dict(state)
        event = history.add(CORA, *HI)
        await inbound.send(event)
        assert await extremities(inbound) == {event.event_id}


@pytest.mark.parametrize("late", [HI, TOPIC])
async def test_events_in_a_gap_replace_the_extremities_on_which_no_state_depends(
    database: Database, late: tuple[Any, ...]
) -> None:
    async with open_inbound(database) as inbound:
        history = inbound.history
        # The state before the last event is that before the topic, as a wrong server tells it.
        state = list(history.before(history.ends).values())
        cited = history.add(ADMIN, *late)
        between = history.add(CORA, *HI)
        last = history.add(CORA, *HI)
        receiver = inbound.server.process.services.core.rooms.receiver

        await receiver.receive(inbound.room_id, [last.canonical], [], {last.event_id: state})
        await inbound.send(cited)
        both = await extremities(inbound)
        await inbound.send(between)

        left = {last.event_id, cited.event_id} if late is TOPIC else {last.event_id}
        assert both == {last.event_id, cited.event_id}
        assert await extremities(inbound) == left
    async with open_inbound(database, history, is_new=False) as inbound:
        assert await extremities(inbound) == left
        current = await inbound.server.world.states.current(inbound.room_id)
        assert (("m.room.topic", "") in current) is (late is TOPIC)
