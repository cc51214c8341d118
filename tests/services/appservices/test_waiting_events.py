"""Events that wait for services are stored together with the read position."""

import pytest
import trio

from hs.core.positions import VectorPosition
from hs.lib.state_machine import ImpossibleTransition
from hs.services.appservices.sender_states import (
    SenderEvent,
    SenderState,
    SenderStates,
)
from hs.services.appservices.waiting_events import ReadElsewhere, WaitingEvents
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database


def position(number: int) -> VectorPosition:
    return VectorPosition().advance("w", number)


async def begin_at(database: Database, number: int) -> tuple[SenderStates, WaitingEvents]:
    states = SenderStates()
    states.note(SenderEvent.RUN_BEGAN)
    waiting = WaitingEvents(database, states)
    await waiting.begin(position(number))
    return states, waiting


async def stored_events(database: Database, service_id: str) -> list[str]:
    events = await database.read(storage.list_pending, service_id, 10)
    return [event.event_id for event in events]


async def test_events_and_position_are_there_in_the_next_run(database: Database) -> None:
    states, waiting = await begin_at(database, 3)
    waiting.add("irc", "$a")
    waiting.add("sms", "$b")
    waiting.position = position(5)

    assert await waiting.store_if_changed() == {"irc", "sms"}
    assert await waiting.store_if_changed() == set()

    assert states.state is SenderState.CATCHING_UP
    assert len(waiting) == 0
    assert await stored_events(database, "irc") == ["$a"]
    assert await stored_events(database, "sms") == ["$b"]
    _, following = await begin_at(database, 100)
    assert following.position == position(5)


async def test_a_process_that_was_replaced_stores_nothing(database: Database) -> None:
    _, first = await begin_at(database, 1)
    await first.store()
    states, replaced = await begin_at(database, 1)
    first.position = position(7)
    await first.store()
    replaced.add("irc", "$a")

    with pytest.raises(ReadElsewhere):
        await replaced.store()

    assert states.state is SenderState.IN_DOUBT
    assert await stored_events(database, "irc") == []


async def test_nothing_is_stored_after_a_cancelled_write(database: Database) -> None:
    states, waiting = await begin_at(database, 1)
    waiting.add("irc", "$a")

    with trio.CancelScope() as scope:
        scope.cancel()
        await waiting.store()

    assert states.state is SenderState.IN_DOUBT
    with pytest.raises(ImpossibleTransition):
        await waiting.store()
