"""Import a room from another server: one event, the state before it and its auth chain.

Rules:

- The state and its auth chain are stored as outliers; those that fail their checks are left out.
- The event must be allowed by its auth events and by the imported state, else the import fails.
- A room that is stored already, from a time when local users were in it, is imported again: the
  imported state replaces the current state, and the event becomes the only forward extremity. What
  was stored stays as history, with a gap in between: prev_events of the event that are not stored
  with their state become backward extremities.
- If the event is stored already with the state before it, nothing changes.
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
from hs.services.rooms.append.hot_room import HotRoom, extremity, head_before_create
from hs.services.rooms.append.pending_events import NewRoomRow, PendingEvent
from hs.services.rooms.receive.event_receiver import PduOutcome, PduVerdict
from hs.services.rooms.receive.graph_order import auth_order
from hs.services.rooms.receive.pdu_processing import PduProcessor, own_entry, state_changes
from hs.services.rooms.receive.received_room import ReceivedRoom
from hs.services.rooms.store.stored_event import EventStatus

_DEFAULT_ROOM_VERSION: Final = "1"  # of create events without `room_version`


@attrs.frozen(eq=False)
class RoomImport:
    """The event, the state before it, and as `outliers` the state and auth chain events."""

    event: Event
    create: Event
    state: Mapping[StateKey, EventID]
    outliers: Sequence[Event]

    @property
    def empty_room(self) -> Callable[[], HotRoom]:
        """Constructor of the hot room, if it is not stored here."""
        create = self.create
        return lambda: HotRoom(create.room_id, create, head_before_create(create))


def check_room_import(
    event: Event, state: Sequence[Event], state_and_auth_chain: Sequence[Event]
) -> RoomImport:
    """Build a RoomImport from events that passed the checks of `pdu_checks`.

    Raises: Forbidden, if the state is not one of a room with this ID and version.
    """
    entries = {(each.type, each.state_key): each for each in state if each.state_key is not None}
    create = entries.get(event_types.CREATE_KEY)
    if create is None:
        raise Forbidden("The state has no create event")
    if create.content.get("room_version", _DEFAULT_ROOM_VERSION) != event.rules.identifier:
        raise Forbidden("The create event has a different room version")
    if event.rules.room_id_is_create_hash and create.event_id != create_event_id_of(event.room_id):
        raise Forbidden("The create event belongs to another room")
    outliers = [each for each in state_and_auth_chain if each.event_id != event.event_id]
    state_ids = {
        key: each.event_id for key, each in entries.items() if each.event_id != event.event_id
    }
    return RoomImport(event, create, state_ids, outliers)


def check_same_room(room: ReceivedRoom, room_import: RoomImport) -> None:
    """Raise Forbidden if the create event is not that of the room."""
    if room.room.create.event_id != room_import.create.event_id:
        raise Forbidden("The room was created by a different event")


async def import_room(room: ReceivedRoom, room_import: RoomImport) -> PduVerdict:
    """Import a held room.

    Raises: Forbidden, if the state does not allow the event.
    """
    event = room_import.event
    check_same_room(room, room_import)
    processor = PduProcessor(room, {})
    known = await room.find_settled(event.event_id)
    if known is not None and known.has_state_before:
        return PduVerdict(event.event_id, PduOutcome.KNOWN)
    if not room.head.extremities:
        room.new_room = NewRoomRow(event.rules.identifier, room_import.create.sender)
    await room.load(
        {
            event_id
            for each in (event, *room_import.outliers)
            for event_id in (each.event_id, *each.auth_events)
        }
    )
    for outlier in auth_order(room_import.outliers):
        await processor.store_outlier(outlier)
    old = room.head
    known_state = await room.find_known(list(room_import.state.values()))
    state = {
        key: each
        for key, each in room_import.state.items()
        if each in known_state and known_state[each].status != EventStatus.REJECTED
    }
    changes = await room.changes_to(room.snapshot_from(state))
    head = room.head.with_state(changes, room.room.create)
    rejection = await processor.rejection_reason(event, head.snapshot)
    if rejection is not None:
        raise Forbidden(rejection)
    await room.load(event.prev_events)
    own = own_entry(event)
    pending = PendingEvent(
        event,
        head.snapshot,
        state_changes(old, {**changes, **own}),
        only_own_entry=False,
        missing_prev_events=tuple(
            each for each in event.prev_events if not processor.has_state_before(each)
        ),
        outlier_id=None if known is None else known.stream_id,
    )
    after = head.with_state(own, room.room.create)
    room.add(pending, after.with_extremities((extremity(event),)))
    return PduVerdict(event.event_id, PduOutcome.ACCEPTED)
