"""Events from before the join that arrive after it."""

from hs.core.ids import EventID
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import Inbound, open_inbound
from tests.support.peers import CORA

HI = ("m.room.message", {"body": "hi"})


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
