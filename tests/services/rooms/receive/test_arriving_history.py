"""Events from before this server's part of a room that arrive like new ones: they stay history.

A server sends them if it starts again, and events that cite old ones have them fetched.
"""

from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.services.rooms.receive.event_receiver import PduOutcome
from tests.support.peers import ADMIN, BERT, CORA, History
from tests.support.receiving import ReceivingWorld
from tests.support.rooms import ALICE

JOIN = {"membership": "join"}


async def import_room(world: ReceivingWorld) -> tuple[RoomID, History]:
    """Import a room with some history before Alice's join."""
    history = History("11")
    history.begin()
    for user in (BERT, CORA):
        history.add(user, "m.room.member", JOIN, user)
    for number in range(3):
        history.add(CORA, "m.room.message", {"body": str(number)})
    history.add(BERT, "m.room.member", {"membership": "leave"}, BERT)
    history.add(ADMIN, "m.room.power_levels", {"users": {ADMIN: 100}, "events_default": 0}, "")
    history.first = history.add(ALICE, "m.room.member", JOIN, ALICE).event_id
    assert history.room_id is not None
    received = await world.receiver.seed_room(history.room_id, "11", *history.seed())
    assert [verdict.outcome for verdict in received.verdicts] == [PduOutcome.ACCEPTED]
    return history.room_id, history


def before_the_join(history: History) -> list[Event]:
    """Return the events before Alice's join."""
    return [event for event in history.events.values() if event.event_id != history.first]


async def receive(world: ReceivingWorld, events: list[Event]) -> set[PduOutcome]:
    """Receive events together and return their outcomes."""
    received = await world.receiver.receive(
        events[0].room_id, [event.canonical for event in events], [], {}
    )
    return {verdict.outcome for verdict in received.verdicts}


async def extremities_of(world: ReceivingWorld, room_id: RoomID) -> list[EventID]:
    """Return the forward extremities of a room."""
    async with world.rooms.hold(room_id) as room:
        return [end.event_id for end in room.head.extremities]


async def test_events_that_lead_to_a_gap_are_no_forward_extremities(world: ReceivingWorld) -> None:
    room_id, history = await import_room(world)
    before = await world.states.current(room_id)
    assert await receive(world, before_the_join(history)) == {PduOutcome.ACCEPTED}
    assert await extremities_of(world, room_id) == [history.first]
    assert await world.states.current(room_id) == before


async def test_outliers_of_the_current_state_are_no_forward_extremities(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_room(world)
    first_events = before_the_join(history)[:2]
    assert await receive(world, first_events) == {PduOutcome.ACCEPTED}
    assert await extremities_of(world, room_id) == [history.first]
