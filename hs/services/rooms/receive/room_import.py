"""Beginning a room with one event and the state before it, as another server tells it.

A room that is here already, from a time when our users were in it, begins anew.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.format import create_event_id_of
from hs.core.ids import EventID
from hs.services.rooms.append.hot_room import HotRoom, extremity, first_head
from hs.services.rooms.append.pending_events import NewRoom, Placed
from hs.services.rooms.receive.event_receiver import Outcome, Verdict
from hs.services.rooms.receive.graph_order import auth_order
from hs.services.rooms.receive.pdu_processing import Intake, own_changes, state_changes
from hs.services.rooms.receive.received_room import GrowingRoom
from hs.services.rooms.store.stored_event import Status

_DEFAULT_VERSION: Final = "1"  # of create events that name none


@attrs.frozen(eq=False)
class Seed:
    """What a room begins with; `beside` are the events of the state and their auth chains."""

    event: Event
    create: Event
    state: Mapping[StateKey, EventID]
    beside: Sequence[Event]

    @property
    def empty_room(self) -> Callable[[], HotRoom]:
        """Give what makes the room, should it not be here."""
        create = self.create
        return lambda: HotRoom(create.room_id, create, first_head(create))


def seed_of(event: Event, state: Sequence[Event], beside: Sequence[Event]) -> Seed:
    """Make a seed of events that passed the checks which look at nothing but themselves.

    Raises: Forbidden, if they are no room of the event's room version.
    """
    entries = {(one.type, one.state_key): one for one in state if one.state_key is not None}
    create = entries.get(event_types.CREATE_KEY)
    if create is None:
        raise Forbidden("The state has no create event")
    if create.content.get("room_version", _DEFAULT_VERSION) != event.rules.identifier:
        raise Forbidden("The create event is of another room version")
    if event.rules.room_id_is_create_hash and create.event_id != create_event_id_of(event.room_id):
        raise Forbidden("The create event is of another room")
    others = [one for one in beside if one.event_id != event.event_id]
    ids = {key: one.event_id for key, one in entries.items() if one.event_id != event.event_id}
    return Seed(event, create, ids, others)


async def plant(growing: GrowingRoom, seed: Seed) -> Verdict:
    """Begin a room with a seed.

    Raises: Forbidden, if the state does not allow the event.
    """
    event = seed.event
    if growing.room.create.event_id != seed.create.event_id:
        raise Forbidden("The room was created by another event")
    intake = Intake(growing, {})
    standing = await growing.settled_standing(event.event_id)
    if standing is not None and standing.has_place:
        return Verdict(event.event_id, Outcome.KNOWN)
    if not growing.head.extremities:
        growing.new_room = NewRoom(event.rules.identifier, seed.create.sender)
    await growing.look_up(
        {each for one in (event, *seed.beside) for each in (one.event_id, *one.auth_events)}
    )
    for one in auth_order(seed.beside):
        await intake.keep_beside(one)
    old = growing.head
    found = await growing.standings(list(seed.state.values()))
    state = {
        key: each
        for key, each in seed.state.items()
        if each in found and found[each].status != Status.REJECTED
    }
    changes = await growing.changes_to(growing.snapshot_of(state))
    head = growing.head.with_state(changes, growing.room.create)
    refusal = await intake.refusal(event, head.snapshot)
    if refusal is not None:
        raise Forbidden(refusal)
    await growing.look_up(event.prev_events)
    own = own_changes(event)
    placed = Placed(
        event,
        head.snapshot,
        state_changes(old, {**changes, **own}),
        plain=False,
        missing=tuple(each for each in event.prev_events if not intake.has_place(each)),
        outlier_id=None if standing is None else standing.stream_id,
    )
    after = head.with_state(own, growing.room.create)
    growing.add(placed, after.with_extremities((extremity(event),)))
    return Verdict(event.event_id, Outcome.ACCEPTED)
