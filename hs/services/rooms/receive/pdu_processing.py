"""Authorize events of other servers and give them their position in a room.

Rules:

- An event is processed only if all its auth events are stored, and either the state before all
  its prev_events is known or the caller passed the state before the event. Otherwise it is
  dropped, and what is missing is reported.
- The event is checked against its auth events (step 4), the state before it (step 5) and the
  current state (step 6), in this order; the first two reject it, the last makes it soft-failed.
- Step 6 applies to new events only. An event that fills a gap is history, as a stored event
  already follows it. So is an outlier of the current state, and what these follow from. An event
  behind a gap may be authorized by state changes that we have not received, so it is checked
  against the current state resolved with the state before it.
- Only accepted events change the head. They replace the forward extremities that they cite,
  directly or by way of soft-failed and rejected events, which never are extremities. History only
  removes those that it cites.
- Of too many forward extremities some do not count. If that is the event itself, it leaves the head
  as it is, until an event that cites it arrives.
- Only accepted events add backward extremities: nothing vouches for what the others cite.
- A redaction and its target may arrive in either order. A redaction applies if the state before
  it allows it, and only the first one that applies counts. A new one that does not apply to its
  target is soft-failed, as clients must not see it. One whose target is unknown is hidden until
  the target is known.

Spec: server-server API, Checks performed on receipt of a PDU, steps 4 to 7.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import attrs

from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.redaction_rules import redaction_applies
from hs.core.auth.rules import check_auth
from hs.core.auth.selection import check_auth_events_selection
from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.format import create_event_id_of
from hs.core.ids import EventID
from hs.services.rooms.append.event_builder import head_without_redacted
from hs.services.rooms.append.hot_room import RoomHead, extremity
from hs.services.rooms.append.pending_events import (
    PendingEvent,
    StateEntryChange,
    is_dummy,
    membership_of,
)
from hs.services.rooms.receive.event_receiver import PduOutcome, PduVerdict
from hs.services.rooms.receive.received_room import KnownEvent, ReceivedRoom
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.services.rooms.store.stored_event import EventStatus

MAX_EVENTS_WALKED: Final = 1000

_IN_FORCE: Final = frozenset((EventStatus.ACCEPTED, EventStatus.HIDDEN))

_OUTCOMES: Mapping[EventStatus, PduOutcome] = {
    EventStatus.ACCEPTED: PduOutcome.ACCEPTED,
    EventStatus.SOFT_FAILED: PduOutcome.SOFT_FAILED,
    EventStatus.REJECTED: PduOutcome.REJECTED,
}


@attrs.define(eq=False)
class PduProcessor:
    """Processes the events of one call.

    `states` maps events of the call to the state before them, and events that these cite and that
    are missing to the state after them.

    The policy server of the room has not signed `not_recommended`. Events that are `distributed`
    are sent to the others by another server, though they may be of this one.
    """

    _room: ReceivedRoom
    _states: Mapping[EventID, Sequence[EventID]]
    _relay: bool = False
    _not_recommended: frozenset[EventID] = attrs.field(default=frozenset(), kw_only=True)
    _distributed: bool = attrs.field(default=False, kw_only=True)
    missing_prev_events: set[EventID] = attrs.Factory(set)
    missing_auth_events: set[EventID] = attrs.Factory(set)
    _gaps: frozenset[EventID] = frozenset()  # events that stored ones follow
    _redactions: Mapping[EventID, Sequence[EventID]] = attrs.Factory(dict)

    async def prepare(self, events: Sequence[Event]) -> None:
        """Load in one query what processing the events will need."""
        await self._room.load(
            {
                each
                for event in events
                for each in (event.event_id, *event.prev_events, *event.auth_events)
            }
        )
        new = [event.event_id for event in events if not self.has_state_before(event.event_id)]
        if new:
            gaps, self._redactions = await self._room.load_gaps_and_redactions(new)
            history = [each.event_id for each in events if self._is_in_state(each)]
            self._gaps = self._with_events_before({*gaps, *history}, events)

    async def store_outlier(self, event: Event) -> None:
        """Store an event as an outlier, unless it is known or lacks auth events."""
        room = self._room
        await room.load((event.event_id, *event.auth_events))
        if room.get_known(event.event_id) is not None or self._lacks_auth_events(event):
            return
        _, rejection = await self._check_auth_events(event)
        status = EventStatus.OUTLIER if rejection is None else EventStatus.REJECTED
        room.add(PendingEvent(event, None, status=status), room.head)

    async def process(self, event: Event) -> PduVerdict:
        """Check an event and append it, if everything that it cites is known."""
        known = await self._room.find_settled(event.event_id)
        if known is not None and known.event.room_id != event.room_id:
            return PduVerdict(
                event.event_id, PduOutcome.REFUSED, "An event with this ID belongs to another room"
            )
        if known is not None and known.has_state_before:
            return PduVerdict(event.event_id, PduOutcome.KNOWN)
        is_incomplete = self._lacks_auth_events(event)
        state_ids = self._states.get(event.event_id)
        missing = [each for each in event.prev_events if not self.has_state_before(each)]
        if state_ids is None and not self._states.keys() >= set(missing):
            self.missing_prev_events.update(missing)
            is_incomplete = True
        if is_incomplete:
            return PduVerdict(
                event.event_id, PduOutcome.WAITING, "Events that it cites are missing"
            )
        if state_ids is not None:
            state_before = await self._snapshot_of_state(state_ids)
        elif missing:
            state_before = await self._state_at_gap(event)
        else:
            state_before = await self._room.state_before(event)
        return await self._append(event, state_before, tuple(missing), known)

    async def _append(
        self,
        event: Event,
        state_before: Snapshot,
        missing: tuple[EventID, ...],
        known: KnownEvent | None,
    ) -> PduVerdict:
        room = self._room
        rejection = await self.rejection_reason(event, state_before)
        status = EventStatus.ACCEPTED if rejection is None else EventStatus.REJECTED
        fills_gap = room.is_history or self._fills_gap(event.event_id)
        if rejection is None and not fills_gap and state_before is not room.head.snapshot:
            # Step 6
            current = room.head.snapshot
            if missing:
                current = await room.resolve([current, state_before])
            rejection = await self._check_state(current, event)
            status = EventStatus.ACCEPTED if rejection is None else EventStatus.SOFT_FAILED
        if rejection is None and not fills_gap and event.event_id in self._not_recommended:
            # Step 7
            rejection = "The room's policy server has not signed the event"
            status = EventStatus.SOFT_FAILED
        if rejection is None and not fills_gap and await self._is_void(event, state_before):
            rejection = "The redaction does not apply to its target"
            status = EventStatus.SOFT_FAILED
        pending = PendingEvent(
            event,
            state_before,
            only_own_entry=not fills_gap,
            status=status,
            fills_gap=fills_gap,
            outlier_id=None if known is None else known.stream_id,
            relay=self._relay and status == EventStatus.ACCEPTED,
            distributed=self._distributed,
        )
        head = room.head
        if status == EventStatus.ACCEPTED:
            # Nothing vouches for the prev_events of an event that was not accepted.
            pending.missing_prev_events = missing
            await self._apply_redactions(pending)
            head = await self._advance_head(pending)
            if not pending.changes and await self._is_hidden(event, state_before):
                pending.status = EventStatus.HIDDEN
        room.add(pending, head)
        return PduVerdict(event.event_id, _OUTCOMES[status], rejection or "")

    async def rejection_reason(self, event: Event, state_before: Snapshot) -> str | None:
        """Return why an event is rejected; None if it is accepted."""
        if event.type == event_types.CREATE and event.event_id != self._room.room.create.event_id:
            return "The room was created by a different event"
        # Step 4
        auth_state, rejection = await self._check_auth_events(event)
        if rejection is not None:
            return rejection
        # Step 5. Most events cite just what the state before them has.
        state = await self._room.auth_state(state_before, event)
        return None if state == auth_state else _rejection(event, state)

    async def _check_auth_events(self, event: Event) -> tuple[dict[StateKey, Event], str | None]:
        """Return the state of the auth events, and why they do not allow the event, if so."""
        auth_events = [self._room.get_known(each) for each in event.auth_events]
        known = [auth_event for auth_event in auth_events if auth_event is not None]
        create = None
        if event.rules.room_id_is_create_hash and event.type != event_types.CREATE:
            create_id = create_event_id_of(event.room_id)
            create = (await self._room.find_known([create_id])).get(create_id)
        return auth_check(event, known, create)

    async def _check_state(self, snapshot: Snapshot, event: Event) -> str | None:
        return _rejection(event, await self._room.auth_state(snapshot, event))

    async def _state_at_gap(self, event: Event) -> Snapshot:
        """Return the state before an event of whose missing prev_events the state is given."""
        states = [
            await self._snapshot_of_state(self._states[each])
            if not self.has_state_before(each)
            else await self._room.state_after(each)
            for each in sorted(set(event.prev_events))
        ]
        return await self._room.resolve(states)

    async def _snapshot_of_state(self, event_ids: Sequence[EventID]) -> Snapshot:
        """Return a state; of several events with the same key the last one counts."""
        # Most of it is usually the same as in the current state, and needs not be loaded.
        current = {event_id: key for key, event_id in self._room.head.snapshot.map.items()}
        known = await self._room.find_known([each for each in event_ids if each not in current])
        keys = current | {
            event_id: (state_event.event.type, state_event.event.state_key)
            for event_id, state_event in known.items()
            if state_event.event.state_key is not None
            and state_event.event.room_id == self._room.room.room_id
            and state_event.status != EventStatus.REJECTED
        }
        return self._room.snapshot_from({keys[each]: each for each in event_ids if each in keys})

    async def _advance_head(self, pending: PendingEvent) -> RoomHead:
        """Return the head after an accepted event; set the changes that it makes to the state."""
        room = self._room
        event = pending.event
        assert pending.state_before is not None
        if pending.fills_gap:
            return await self._head_after_history(self._without_redacted(room.head, pending), event)
        cited = await self._cited_extremities(event)
        uncited = [end for end in room.head.extremities if end.event_id not in cited]
        old = room.head
        after = pending.state_before
        if event.state_key is not None:
            after = after.after({(event.type, event.state_key): event.event_id})
        room.announce(pending, after)
        end = extremity(event)
        ends = room.limited((*uncited, end))
        if end not in ends:
            pending.only_own_entry = event.state_key is None
            return self._without_redacted(room.head, pending)
        if uncited:
            others = [await room.state_after(each.event_id) for each in ends if each != end]
            after = await room.resolve([after, *others])
        if pending.state_before is old.snapshot and not uncited:
            changes = own_entry(event)
        else:
            changes = await room.changes_to(after)
        head = room.head.with_state(changes, room.room.create)
        if not uncited:
            room.remember_state_after(event.event_id, head.snapshot)
        pending.changes = state_changes(old, changes)
        pending.only_own_entry = changes == own_entry(event)
        head = self._without_redacted(head, pending)
        return head.with_extremities(ends)

    async def _head_after_history(self, head: RoomHead, event: Event) -> RoomHead:
        """Return the head without extremities that received history follows.

        They stay until a new event cites them if the state depends on them, or if the head is not
        going to be stored.
        """
        room = self._room
        cited = await self._cited_extremities(event)
        left = tuple(end for end in head.extremities if end.event_id not in cited)
        if room.is_history or not left or len(left) == len(head.extremities):
            return head
        after = await room.resolve([await room.state_after(end.event_id) for end in left])
        return head if await room.changes_to(after) else head.with_extremities(left)

    def _without_redacted(self, head: RoomHead, pending: PendingEvent) -> RoomHead:
        if pending.redacts is None:
            return head
        target = self._room.get_known(pending.redacts)
        assert target is not None
        return head_without_redacted(head, target.event)

    async def _cited_extremities(self, event: Event) -> set[EventID]:
        """Collect what an event cites, directly or via rejected and soft-failed events."""
        cited: set[EventID] = set()
        unvisited = list(event.prev_events)
        while unvisited and len(cited) < MAX_EVENTS_WALKED:
            next_ids = [each for each in unvisited if each not in cited]
            cited.update(next_ids)
            known = await self._room.find_known(next_ids)
            unvisited = [
                each
                for known_event in known.values()
                if known_event.status in (EventStatus.SOFT_FAILED, EventStatus.REJECTED)
                for each in known_event.event.prev_events
            ]
        return cited

    async def _apply_redactions(self, pending: PendingEvent) -> None:
        event = pending.event
        assert pending.state_before is not None
        target_id = event.redacts
        if target_id is not None:
            target = (await self._room.find_known([target_id])).get(target_id)
            if target is not None and await self._redacts_now(pending, target):
                pending.mark_redacted(target.event)
        stored_redactions = self._redactions.get(event.event_id, ())
        pending_redactions = self._room.pending_redactions_of(event.event_id)
        for redaction_id in (*stored_redactions, *pending_redactions):
            redaction = (await self._room.find_known([redaction_id])).get(redaction_id)
            if (
                redaction is None
                or redaction.status not in _IN_FORCE
                or not redaction.has_state_before
            ):
                continue
            state_before = await self._room.load_state_before(redaction)
            if await self._applies(redaction.event, event, state_before):
                pending.redacted_by = redaction_id
                return

    async def _redacts_now(self, pending: PendingEvent, target: KnownEvent) -> bool:
        assert pending.state_before is not None
        if self._is_redacted(target):
            return False
        return await self._applies(pending.event, target.event, pending.state_before)

    def _is_redacted(self, target: KnownEvent) -> bool:
        return target.redacted_by is not None or self._room.is_redacted_by_pending(
            target.event.event_id
        )

    async def _is_void(self, event: Event, state_before: Snapshot) -> bool:
        """Return whether an event is a redaction that does not apply to its known target.

        Spec: rooms/v3, Handling redactions.
        """
        target_id = event.redacts
        if target_id is None or event.state_key is not None:
            return False
        target = (await self._room.find_known([target_id])).get(target_id)
        return target is not None and not await self._applies(event, target.event, state_before)

    async def _is_hidden(self, event: Event, state_before: Snapshot) -> bool:
        """Return whether clients must not see an accepted event, that is a dummy event or a
        redaction that has no effect.

        A redaction of an unknown target is shown once the target is known and it applies.
        """
        if is_dummy(event):
            return True
        if event.redacts is None or event.state_key is not None:
            return False
        target = (await self._room.find_known([event.redacts])).get(event.redacts)
        if target is None or target.status == EventStatus.REJECTED:
            return True
        return not await self._applies(event, target.event, state_before)

    async def _applies(self, redaction: Event, target: Event, state_before: Snapshot) -> bool:
        state = await self._room.auth_state(state_before, redaction)
        create = state.get(event_types.CREATE_KEY)
        if create is None:
            return False
        levels = state.get(event_types.POWER_LEVELS_KEY)
        return redaction_applies(redaction, target, PowerLevels.of(levels, create, redaction.rules))

    def _fills_gap(self, event_id: EventID) -> bool:
        return event_id in self._gaps or self._room.is_missing_of_pending(event_id)

    def _is_in_state(self, event: Event) -> bool:
        """Return whether the current state contains an event: it is before all that is to come."""
        key = (event.type, event.state_key or "")
        return (
            event.state_key is not None and self._room.head.snapshot.map.get(key) == event.event_id
        )

    def _with_events_before(
        self, gaps: Collection[EventID], events: Sequence[Event]
    ) -> frozenset[EventID]:
        """Return backward extremities with those of the events from which they follow."""
        by_id = {event.event_id: event for event in events}
        unvisited = [each for each in by_id if each in gaps or self._fills_gap(each)]
        found = set(gaps)
        while unvisited:
            for cited in by_id[unvisited.pop()].prev_events:
                if cited in by_id and cited not in found:
                    found.add(cited)
                    unvisited.append(cited)
        return frozenset(found)

    def has_state_before(self, event_id: EventID) -> bool:
        """Return whether the state before a loaded event is known."""
        known = self._room.get_known(event_id)
        return known is not None and known.has_state_before

    def _lacks_auth_events(self, event: Event) -> bool:
        missing = [each for each in event.auth_events if self._room.get_known(each) is None]
        self.missing_auth_events.update(missing)
        return bool(missing)


def auth_check(
    event: Event, auth_events: Sequence[KnownEvent], create: KnownEvent | None
) -> tuple[dict[StateKey, Event], str | None]:
    """Return the state of an event's auth events, and why they do not allow it, if so.

    `create` is the create event of the room, in versions in which events do not cite it.
    """
    rejected = {each.event.event_id for each in auth_events if each.status == EventStatus.REJECTED}
    state: dict[StateKey, Event] = {
        (each.event.type, each.event.state_key or ""): each.effective_event for each in auth_events
    }
    if create is not None and create.status != EventStatus.REJECTED:
        state[event_types.CREATE_KEY] = create.effective_event
    try:
        check_auth_events_selection(event, [each.event for each in auth_events], rejected)
        check_auth(event, state)
    except Forbidden as fault:
        return state, f"The auth events do not allow the event: {fault.message}"
    return state, None


def _rejection(event: Event, state: Mapping[StateKey, Event]) -> str | None:
    """Return why a state does not allow an event; None if it does."""
    try:
        check_auth(event, state)
    except Forbidden as fault:
        return fault.message
    return None


def own_entry(event: Event) -> dict[StateKey, Event | None]:
    """Return the state entry that an event sets; empty for events that are not state."""
    return {} if event.state_key is None else {(event.type, event.state_key): event}


def state_changes(
    before: RoomHead, changes: Mapping[StateKey, Event | None]
) -> tuple[StateEntryChange, ...]:
    """Return the changed entries of a room's current state."""
    return tuple(_change(before, key, event) for key, event in changes.items())


def _change(before: RoomHead, key: StateKey, event: Event | None) -> StateEntryChange:
    is_member = key[0] == event_types.MEMBER
    return StateEntryChange(
        *key,
        None if event is None else event.event_id,
        None if event is None else membership_of(event),
        before.members.get(key[1]) if is_member else None,
    )
