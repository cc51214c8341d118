"""Redactions of other servers: when they apply, and when clients see them."""

import pytest

from hs.core.ids import RoomID
from hs.services.rooms.receive.event_receiver import PduOutcome
from hs.services.rooms.store.stored_event import EventStatus
from tests.services.rooms.receive.test_event_intake import (
    JOIN,
    import_joined_room,
    load_stored,
    receive,
)
from tests.support.peers import ADMIN, BERT, CORA, History
from tests.support.receiving import ReceivingWorld
from tests.support.rooms import ALICE
from tests.support.syncing import Syncing


async def shown_to_alice(world: ReceivingWorld, room_id: RoomID) -> list[str]:
    """Return the events that Alice sees."""
    response = await Syncing(world).sync(ALICE)
    events = response["rooms"]["join"][room_id]["timeline"]["events"]
    return [event["event_id"] for event in events]


@pytest.mark.parametrize("version", ["1", "11"])
async def test_redaction_applies_in_either_order_of_arrival(
    world: ReceivingWorld, version: str
) -> None:
    room_id, history = await import_joined_room(world, version)
    start = history.ends[:]
    spam = history.add(CORA, "m.room.message", {"body": "spam"}, after=start)
    gone = history.add(ADMIN, "m.room.redaction", {}, after=start, redacts=spam.event_id)
    other = history.add(CORA, "m.room.message", {"body": "more"}, after=start)
    later = history.add(ADMIN, "m.room.redaction", {}, after=start, redacts=other.event_id)

    await receive(world, gone)
    await receive(world, spam)
    await receive(world, other)
    await receive(world, later)

    assert (await load_stored(world, spam)).redacted_by == gone.event_id
    assert (await load_stored(world, other)).redacted_by == later.event_id
    assert world.seen[-1][1].redaction_applies
    assert room_id == spam.room_id


async def test_redaction_of_an_unknown_event_is_shown_when_the_event_arrives(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_joined_room(world)
    start = history.ends[:]
    spam = history.add(CORA, "m.room.message", {"body": "spam"}, after=start)
    gone = history.add(ADMIN, "m.room.redaction", {}, after=start, redacts=spam.event_id)

    outcomes = await receive(world, gone)
    before = await shown_to_alice(world, room_id)
    await receive(world, spam)

    assert outcomes == [PduOutcome.ACCEPTED]
    assert gone.event_id not in before
    assert {gone.event_id, spam.event_id} <= set(await shown_to_alice(world, room_id))
    assert (await load_stored(world, gone)).status == EventStatus.ACCEPTED


async def test_redaction_that_does_not_apply_to_a_later_event_stays_hidden(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_joined_room(world)
    start = history.ends[:]
    said = history.add(BERT, "m.room.message", {"body": "x"}, after=start)
    redaction = history.draft(CORA, "m.room.redaction", {}, after=start, redacts=said.event_id)

    await receive(world, redaction)
    await receive(world, said)

    shown = await shown_to_alice(world, room_id)
    assert said.event_id in shown
    assert redaction.event_id not in shown
    assert (await load_stored(world, redaction)).status == EventStatus.HIDDEN


async def test_redaction_without_power_does_not_apply(world: ReceivingWorld) -> None:
    _, history = await import_joined_room(world)
    said = history.add(BERT, "m.room.message", {"body": "x"})
    redaction = history.draft(CORA, "m.room.redaction", {}, redacts=said.event_id)

    await receive(world, said)
    outcomes = await receive(world, redaction)

    assert (await load_stored(world, said)).redacted_by is None
    assert outcomes == [PduOutcome.SOFT_FAILED]


async def test_redaction_of_an_event_in_another_room_is_not_shown(world: ReceivingWorld) -> None:
    _, history = await import_joined_room(world)
    other = History("11", room_id=RoomID("!other:one.example"))
    other.begin()
    other.keep(other.draft(ALICE, "m.room.member", JOIN, ALICE))
    other.first = other.ends[0]
    await world.receiver.seed_room(RoomID("!other:one.example"), "11", *other.seed())
    said = other.add(ADMIN, "m.room.message", {"body": "x"})
    redaction = history.draft(ADMIN, "m.room.redaction", {}, redacts=said.event_id)

    await receive(world, said)
    outcomes = await receive(world, redaction)

    assert (await load_stored(world, said)).redacted_by is None
    assert outcomes == [PduOutcome.SOFT_FAILED]
