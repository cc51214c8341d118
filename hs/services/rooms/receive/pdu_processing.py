"""Giving events of other servers their place in a room, or refusing it.

Spec: server-server API, Checks performed on receipt of a PDU, steps 4 to 6.
"""

from collections.abc import Mapping, Sequence
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
from hs.services.rooms.append.event_builder import without_redacted
from hs.services.rooms.append.hot_room import RoomHead, extremity
from hs.services.rooms.append.pending_events import Change, Placed, membership_of
from hs.services.rooms.receive.event_receiver import Outcome, Verdict
from hs.services.rooms.receive.received_room import GrowingRoom, Standing
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.services.rooms.store.stored_event import Status

MAX_WALKED: Final = 1000

_OUTCOMES: Mapping[Status, Outcome] = {
    Status.ACCEPTED: Outcome.ACCEPTED,
    Status.SOFT_FAILED: Outcome.SOFT_FAILED,
    Status.REJECTED: Outcome.REJECTED,
}


@attrs.define(eq=False)
class Intake:
    """One call's events going into a room; `states` are given, of the time before events."""

    _growing: GrowingRoom
    _states: Mapping[EventID, Sequence[EventID]]
    missing_prev_events: set[EventID] = attrs.Factory(set)
    missing_auth_events: set[EventID] = attrs.Factory(set)
    _gaps: frozenset[EventID] = frozenset()  # those of the events that known events lack
    _redactions: Mapping[EventID, Sequence[EventID]] = attrs.Factory(dict)

    async def prepare(self, events: Sequence[Event]) -> None:
        """Read at once what judging the events will ask for."""
        await self._growing.look_up(
            {
                each
                for event in events
                for each in (event.event_id, *event.prev_events, *event.auth_events)
            }
        )
        new = [event.event_id for event in events if not self.has_place(event.event_id)]
        if new:
            self._gaps, self._redactions = await self._growing.notes_of(new)

    async def keep_beside(self, event: Event) -> None:
        """Keep an event without a place, unless it is here or cites auth events that are not."""
        growing = self._growing
        await growing.look_up((event.event_id, *event.auth_events))
        if growing.standing(event.event_id) is not None or self._lacks_auth_events(event):
            return
        refusal = await self._judge_by_auth_events(event)
        status = Status.OUTLIER if refusal is None else Status.REJECTED
        growing.add(Placed(event, None, status=status), growing.head)

    async def judge(self, event: Event) -> Verdict:
        """Put an event in, if all that it cites is here, as what the checks find it to be."""
        standing = await self._growing.settled_standing(event.event_id)
        if standing is not None and standing.event.room_id != event.room_id:
            return Verdict(event.event_id, Outcome.REFUSED, "The ID is of another room's event")
        if standing is not None and standing.has_place:
            return Verdict(event.event_id, Outcome.KNOWN)
        lacks = self._lacks_auth_events(event)
        given = self._states.get(event.event_id)
        gone = [each for each in event.prev_events if not self.has_place(each)]
        if given is None and gone:
            self.missing_prev_events.update(gone)
            lacks = True
        if lacks:
            return Verdict(event.event_id, Outcome.WAITING, "It cites events that are not here")
        if given is None:
            before = await self._growing.state_before(event)
        else:
            before = await self._given_state(given)
        return await self._place(event, before, tuple(gone), standing)

    async def _place(
        self, event: Event, before: Snapshot, gone: tuple[EventID, ...], standing: Standing | None
    ) -> Verdict:
        growing = self._growing
        refusal = await self.refusal(event, before)
        status = Status.ACCEPTED if refusal is None else Status.REJECTED
        fills_gap = self._fills_gap(event.event_id)
        if refusal is None and not fills_gap and before is not growing.head.snapshot:
            # Step 6. What a known event has cited already is history; and behind a gap more is
            # current than we have heard of.
            current = growing.head.snapshot
            if gone:
                current = await growing.resolve([current, before])
            refusal = await self._allowed_by(current, event)
            status = Status.ACCEPTED if refusal is None else Status.SOFT_FAILED
        placed = Placed(
            event,
            before,
            plain=not fills_gap,
            status=status,
            fills_gap=fills_gap,
            outlier_id=None if standing is None else standing.stream_id,
        )
        head = growing.head
        if status == Status.ACCEPTED:
            # Else what it lacks must not count as cited, as nothing shows that it is.
            placed.missing = gone
            await self._note_redactions(placed)
            head = await self._follow(placed)
        growing.add(placed, head)
        return Verdict(event.event_id, _OUTCOMES[status], refusal or "")

    async def refusal(self, event: Event, before: Snapshot) -> str | None:
        """Tell why an event is rejected; None if it is not."""
        if (
            event.type == event_types.CREATE
            and event.event_id != self._growing.room.create.event_id
        ):
            return "The room was created by another event"
        # Step 4
        refusal = await self._judge_by_auth_events(event)
        # Step 5
        return refusal or await self._allowed_by(before, event)

    async def _judge_by_auth_events(self, event: Event) -> str | None:
        cited = [self._growing.standing(each) for each in event.auth_events]
        known = [one for one in cited if one is not None]
        rejected = {one.event.event_id for one in known if one.status == Status.REJECTED}
        state: dict[StateKey, Event] = {
            (one.event.type, one.event.state_key or ""): one.counting for one in known
        }
        if event.rules.room_id_is_create_hash and event.type != event_types.CREATE:
            create_id = create_event_id_of(event.room_id)
            create = (await self._growing.standings([create_id])).get(create_id)
            if create is not None and create.status != Status.REJECTED:
                state[event_types.CREATE_KEY] = create.counting
        try:
            check_auth_events_selection(event, [one.event for one in known], rejected)
            check_auth(event, state)
        except Forbidden as fault:
            return f"Its auth events do not allow it: {fault.message}"
        return None

    async def _allowed_by(self, snapshot: Snapshot, event: Event) -> str | None:
        state = await self._growing.auth_state(snapshot, event)
        try:
            check_auth(event, state)
        except Forbidden as fault:
            return fault.message
        return None

    async def _given_state(self, event_ids: Sequence[EventID]) -> Snapshot:
        found = await self._growing.standings(event_ids)
        entries = {
            (one.event.type, one.event.state_key): event_id
            for event_id, one in found.items()
            if one.event.state_key is not None and one.status != Status.REJECTED
        }
        return self._growing.snapshot_of(entries)

    async def _follow(self, placed: Placed) -> RoomHead:
        """Give the head after an accepted event, and set what it changes."""
        growing = self._growing
        event = placed.event
        assert placed.before is not None
        if placed.fills_gap:
            return growing.head
        cited = await self._ends_cited(event)
        rest = [one for one in growing.head.extremities if one.event_id not in cited]
        old = growing.head
        after = placed.before
        if event.state_key is not None:
            after = after.after({(event.type, event.state_key): event.event_id})
        growing.introduce(placed, after)
        if rest:
            others = [await growing.state_after(one.event_id) for one in rest]
            after = await growing.resolve([after, *others])
        if placed.before is old.snapshot and not rest:
            changes = own_changes(event)
        else:
            changes = await growing.changes_to(after)
        head = growing.head.with_state(changes, growing.room.create)
        if not rest:
            growing.remember_after(event.event_id, head.snapshot)
        placed.changes = state_changes(old, changes)
        placed.plain = changes == own_changes(event)
        if placed.redacts is not None:
            target = growing.standing(placed.redacts)
            assert target is not None
            head = without_redacted(head, target.event)
        return head.with_extremities((*rest, extremity(event)))

    async def _ends_cited(self, event: Event) -> set[EventID]:
        """Collect what an event cites, also by way of events that are not built upon."""
        cited: set[EventID] = set()
        waiting = list(event.prev_events)
        while waiting and len(cited) < MAX_WALKED:
            front = [each for each in waiting if each not in cited]
            cited.update(front)
            found = await self._growing.standings(front)
            waiting = [
                each
                for one in found.values()
                if one.status in (Status.SOFT_FAILED, Status.REJECTED)
                for each in one.event.prev_events
            ]
        return cited

    async def _note_redactions(self, placed: Placed) -> None:
        event = placed.event
        assert placed.before is not None
        target_id = event.redacts
        if target_id is not None:
            target = (await self._growing.standings([target_id])).get(target_id)
            if target is not None and await self._takes_away(placed, target):
                placed.take_away(target.event)
        noted = self._redactions.get(event.event_id, ())
        ours = [
            one.event.event_id
            for one in self._growing.under_way()
            if one.event.redacts == event.event_id
        ]
        for redaction_id in (*noted, *ours):
            found = (await self._growing.standings([redaction_id])).get(redaction_id)
            if found is None or found.status != Status.ACCEPTED or not found.has_place:
                continue
            before = await self._growing.state_before_known(found)
            if await self._applies(found.event, event, before):
                placed.redacted_by = redaction_id
                return

    async def _takes_away(self, placed: Placed, target: Standing) -> bool:
        assert placed.before is not None
        if self._is_redacted(target):
            return False
        return await self._applies(placed.event, target.event, placed.before)

    def _is_redacted(self, target: Standing) -> bool:
        return target.redacted_by is not None or any(
            one.redacts == target.event.event_id for one in self._growing.under_way()
        )

    async def _applies(self, redaction: Event, target: Event, before: Snapshot) -> bool:
        state = await self._growing.auth_state(before, redaction)
        create = state.get(event_types.CREATE_KEY)
        if create is None:
            return False
        levels = state.get(event_types.POWER_LEVELS_KEY)
        return redaction_applies(redaction, target, PowerLevels.of(levels, create, redaction.rules))

    def _fills_gap(self, event_id: EventID) -> bool:
        return event_id in self._gaps or any(
            event_id in one.missing for one in self._growing.under_way()
        )

    def has_place(self, event_id: EventID) -> bool:
        """Tell whether the state before an event is known, that was looked up."""
        standing = self._growing.standing(event_id)
        return standing is not None and standing.has_place

    def _lacks_auth_events(self, event: Event) -> bool:
        gone = [each for each in event.auth_events if self._growing.standing(each) is None]
        self.missing_auth_events.update(gone)
        return bool(gone)


def own_changes(event: Event) -> dict[StateKey, Event | None]:
    """Give what an event sets in the state after it."""
    return {} if event.state_key is None else {(event.type, event.state_key): event}


def state_changes(before: RoomHead, changes: Mapping[StateKey, Event | None]) -> tuple[Change, ...]:
    """List what became another in the current state of a room."""
    return tuple(_change(before, key, event) for key, event in changes.items())


def _change(before: RoomHead, key: StateKey, event: Event | None) -> Change:
    is_member = key[0] == event_types.MEMBER
    return Change(
        *key,
        None if event is None else event.event_id,
        None if event is None else membership_of(event),
        before.members.get(key[1]) if is_member else None,
    )
