"""Import a room from another server: one event, the state before it and its auth chain.

Rules:

- The state and its auth chain are stored as outliers; those that fail their checks are left out.
  They are stored in several commits, once everything has been checked, and before the event: if the
  event is not stored in the end, they are never seen.
- The event must be allowed by its auth events and by the imported state, else the import fails.
- A room that is stored already, from a time when local users were in it, is imported again: the
  imported state replaces the current state, and the event becomes the only forward extremity. What
  was stored stays as history, with a gap in between: prev_events of the event that are not stored
  with their state become backward extremities.
- If the event is stored already with the state before it, nothing changes.
- The server that sent the room sends the event to the others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.format import create_event_id_of
from hs.core.ids import EventID
from hs.services.rooms.append.hot_room import HotRoom, RoomHead, extremity, head_before_create
from hs.services.rooms.append.pending_events import NewRoomRow, PendingEvent
from hs.services.rooms.receive.event_receiver import PduOutcome, PduVerdict
from hs.services.rooms.receive.graph_order import auth_order
from hs.services.rooms.receive.pdu_processing import (
    PduProcessor,
    auth_check,
    own_entry,
    state_changes,
)
from hs.services.rooms.receive.received_room import KnownEvent, ReceivedRoom, state_difference
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
    old = room.head
    imported = await _check_outliers(room, room_import)
    room.announce_outliers(imported.events)
    rejection = await processor.rejection_reason(event, imported.head.snapshot)
    if rejection is not None:
        raise Forbidden(rejection)
    await room.load(event.prev_events)
    await room.store_outliers(imported.outliers)
    own = own_entry(event)
    changes = await trio.to_thread.run_sync(state_changes, old, {**imported.changes, **own})
    room.check_not_dropped()
    pending = PendingEvent(
        event,
        imported.head.snapshot,
        changes,
        only_own_entry=False,
        missing_prev_events=tuple(
            each for each in event.prev_events if not processor.has_state_before(each)
        ),
        outlier_id=None if known is None else known.stream_id,
        distributed=True,
    )
    after = imported.head.with_state(own, room.room.create)
    room.add(pending, after.with_extremities((extremity(event),)))
    return PduVerdict(event.event_id, PduOutcome.ACCEPTED)


@attrs.frozen(eq=False)
class _ImportedState:
    """The outliers to store, all events of the import, and what its state changes."""

    outliers: Sequence[PendingEvent]
    events: Mapping[EventID, KnownEvent]
    changes: Mapping[StateKey, Event | None]
    head: RoomHead


async def _check_outliers(room: ReceivedRoom, room_import: RoomImport) -> _ImportedState:
    event_ids = await trio.to_thread.run_sync(_ids_in, room_import)
    await room.load(event_ids)
    known = room.known_among(event_ids)
    # In a thread, as a room may have 100,000 members. The room is held, so nothing else changes it.
    imported = await trio.to_thread.run_sync(
        _imported_state, room_import, known, room.head, room.room.create
    )
    room.check_not_dropped()
    return imported


def _ids_in(room_import: RoomImport) -> set[EventID]:
    events = (room_import.event, *room_import.outliers)
    return {event_id for each in events for event_id in (each.event_id, *each.auth_events)}


def _imported_state(
    room_import: RoomImport, known: dict[EventID, KnownEvent], head: RoomHead, create: Event
) -> _ImportedState:
    outliers = []
    for event in auth_order(_cited_events(room_import)):
        auth_events = [known[each] for each in event.auth_events if each in known]
        if event.event_id in known or len(auth_events) < len(event.auth_events):
            continue
        uncited = known.get(create.event_id) if event.rules.room_id_is_create_hash else None
        _, rejection = auth_check(event, auth_events, uncited)
        status = EventStatus.OUTLIER if rejection is None else EventStatus.REJECTED
        known[event.event_id] = KnownEvent(event, status)
        outliers.append(PendingEvent(event, None, status=status))
    state = {
        key: each
        for key, each in room_import.state.items()
        if each in known and _is_entry(known[each], key, create)
    }
    changes = {
        key: None if each is None else known[each].effective_event
        for key, each in state_difference(head.snapshot.map, state).items()
    }
    return _ImportedState(outliers, known, changes, head.with_state(changes, create))


def _cited_events(room_import: RoomImport) -> list[Event]:
    """Return the events of the state and its auth chain; what neither contains is left out."""
    by_id = {event.event_id: event for event in room_import.outliers}
    waiting = [*room_import.state.values(), *room_import.event.auth_events]
    cited: dict[EventID, Event] = {}
    while waiting:
        event_id = waiting.pop()
        if event_id in by_id and event_id not in cited:
            cited[event_id] = by_id[event_id]
            waiting.extend(by_id[event_id].auth_events)
    return list(cited.values())


def _is_entry(known: KnownEvent, key: StateKey, create: Event) -> bool:
    """Return whether an event may have a place in the room's state.

    In room versions 1 and 2 servers choose event IDs, so an event with the ID may be stored that is
    not the one that was sent.
    """
    event = known.event
    is_same = (event.type, event.state_key) == key and event.room_id == create.room_id
    return is_same and known.status != EventStatus.REJECTED
