"""Append drafts to the rooms that this process owns: build events under the lock, then commit.

Rules:

- All drafts of a call become events of one batch, or none does.
- From `_fetch` to `submit` nothing is awaited except the policy server and the states of forks, and
  after that the room is checked. So the head that the events were built on is the head that they
  are added to.
- A transaction ID yields one event: the device's transactions are loaded before the lock, and
  looked at again under the lock, as an equal request may have begun in between. If an earlier
  commit of the request failed in between, only the database knows the result, and the call starts
  again.
- `replaces` is a compare-and-set of one state entry. Its failure is reported only after the event
  that won is committed, so that a caller who reads the state again finds that event.
- If the room is dropped while the call waits (see `hot_rooms`), the call starts again from what is
  in the database, at most ATTEMPTS times.
- A new room needs no lock: until its first commit, nobody else can know its ID. While its events
  are built, other tasks may run; afterwards it is checked that its ID and its transaction are free.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.auth.member_rules import membership_in
from hs.core.auth.rules import check_auth
from hs.core.errors import BadState, Forbidden, MatrixError
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, server_of
from hs.core.versions import RoomVersion, room_version
from hs.lib.time_slice import TimeSlice
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.services.rooms.append.event_builder import EventBuilder, head_without_redacted
from hs.services.rooms.append.forked_heads import ForkedHeads, is_forked
from hs.services.rooms.append.hot_room import (
    HotRoom,
    RoomHead,
    head_after,
    head_before_create,
    own_state_change,
)
from hs.services.rooms.append.hot_rooms import HotRooms, RoomDropped
from hs.services.rooms.append.pending_events import (
    EventBatch,
    NewRoomRow,
    PendingEvent,
    wait_until_appended,
)
from hs.services.rooms.append.policy_servers import PolicyServerCheck
from hs.services.rooms.append.transaction_ids import DeviceTransactions, TransactionIds
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent

ATTEMPTS: Final = 3  # if commits of the room fail while its events are fetched
MAX_SHIFT_MS: Final = 1000
_POLICY_KEY: Final = (event_types.POLICY, "")

_Result = PendingEvent | AppendedEvent


class _ReplacedMeanwhile(Exception):
    """The event that a draft `replaces` is not current any more.

    `batch` is the batch of the event that replaced it, if that is not committed yet.
    """

    def __init__(self, batch: EventBatch | None) -> None:
        super().__init__()
        self.batch = batch


@attrs.define(eq=False)
class _AppendCall:
    """One call of `append`: its drafts and what was loaded for them."""

    drafts: Sequence[Draft]
    devices: Sequence[DeviceTransactions | None]
    stored: Mapping[EventID, StoredEvent] = attrs.Factory(dict)


@attrs.frozen(eq=False)
class RoomWriter:
    """The RoomAppender of the process that owns the rooms.

    `owns` returns whether a new room's ID belongs to this process.
    """

    _rooms: HotRooms
    _events: EventStore
    _transactions: TransactionIds
    _builder: EventBuilder
    _owns: Callable[[RoomID], bool]
    _policies: PolicyServerCheck
    _forks: ForkedHeads

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        """Append events to a room; see RoomAppender."""
        for _ in range(ATTEMPTS):
            devices = [
                None if draft.txn is None else await self._transactions.load(draft.txn)
                for draft in drafts
            ]
            try:
                async with self._rooms.hold(room_id) as room:
                    results, batch = await self._append(room, _AppendCall(drafts, devices))
            except RoomDropped:
                continue
            except _ReplacedMeanwhile as replaced:
                # A caller that reads the state again must find the event that came first.
                if replaced.batch is not None:
                    await replaced.batch.wait()
                raise BadState("The state event was replaced by another request") from None
            return [await _wait_for_result(result, batch) for result in results]
        raise MatrixError("M_UNKNOWN", 503, "The room's events could not be stored; try again")

    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        """Create a room; see RoomAppender."""
        rules = room_version(version)
        first = drafts[0]
        assert first.type == event_types.CREATE
        device = None
        if first.txn is not None:
            device = await self._transactions.load(first.txn)
            result = device.find(first.txn)
            if result is not None:
                return [await _wait_for_result(result, None)]
        for _ in range(ATTEMPTS):
            room, head, events = await self._build_room(first, drafts[1:], rules)
            # Other tasks ran meanwhile. From here to `begin` nothing is awaited.
            if device is not None and first.txn is not None:
                result = device.find(first.txn)
                if result is not None:
                    return [await _wait_for_result(result, None)]
            if room.room_id not in self._rooms:
                break
        else:
            raise _no_free_room_id()
        new_room = NewRoomRow(version, first.sender)
        batch = self._rooms.submit(room, events, head, new_room, on_finished=_Finish([device]))
        if device is not None and first.txn is not None:
            device.begin(first.txn, events[0])
        await batch.wait()
        return [await wait_until_appended(pending, existed=False) for pending in events]

    async def _build_room(
        self, first: Draft, drafts: Sequence[Draft], rules: RoomVersion
    ) -> tuple[HotRoom, RoomHead, list[PendingEvent]]:
        """Build the events of a new room, which nobody else can know yet."""
        create = self._new_create_event(
            first, lambda ts: self._builder.build_create_event(first, rules, ts)
        )
        room = HotRoom(create.room_id, create, head_before_create(create))
        head = head_after(room.head, create, create)
        changes = own_state_change(room.head, create)
        events = [PendingEvent(create, room.head.snapshot, changes, txn=first.txn)]
        time_slice = TimeSlice()
        for draft in drafts:
            pending, head = self._builder.build_event(room, head, draft)
            events.append(pending)
            await time_slice.yield_if_over()
        return room, head, events

    def _new_create_event(self, draft: Draft, build: Callable[[int], Event]) -> Event:
        # The room's ID decides which process owns the room. Where the ID is the hash of the
        # create event, two equal create events of the same millisecond would be one room. So
        # the timestamp may be moved until the ID is free and belongs to this process.
        start = draft.origin_server_ts
        if start is None:
            start = self._builder.clock.now_ms()
        for shift in range(MAX_SHIFT_MS):
            create = build(start - shift)
            if self._owns(create.room_id) and create.room_id not in self._rooms:
                return create
        raise _no_free_room_id()

    async def _append(
        self, room: HotRoom, call: _AppendCall
    ) -> tuple[list[_Result], EventBatch | None]:
        await self._fetch(room, call)
        forked = None
        if is_forked(room):
            forked = await self._forks.cited_head(room, server_of(call.drafts[0].sender))
        # From here to `submit` nothing is awaited except the policy server and the states of forks.
        head = room.head
        results: list[_Result] = []
        events: list[PendingEvent] = []
        for draft, device in zip(call.drafts, call.devices, strict=True):
            result = self._existing_result(room, draft, device, call)
            if result is None:
                _check_replaced(room, head, draft)
                target = _redaction_target(room, draft, events, call)
                before = head
                if forked is None:
                    pending, head = self._builder.build_event(room, before, draft, target)
                else:
                    pending, forked = self._builder.build_event(room, forked, draft, target)
                    head = _head_with(before, pending, target, room)
                _check_membership_before(before, draft)
                room.annotations.check(pending.event)
                events.append(pending)
                result = pending
            results.append(result)
        if not events:
            return results, None
        if forked is not None:
            head = await self._forks.joined_head(room, events, head)
        if _POLICY_KEY in room.head.snapshot.map:
            await self._sign_by_policy_server(room, events)
        batch = self._rooms.submit(room, events, head, on_finished=_Finish(call.devices))
        room.annotations.note(events)
        for pending, device in _with_devices(results, call.devices):
            if pending.batch is batch and pending.txn is not None:
                device.begin(pending.txn, pending)
        return results, batch

    async def _sign_by_policy_server(
        self, room: HotRoom, pending_events: Sequence[PendingEvent]
    ) -> None:
        """Have the room's policy server sign the events.

        The signed events contain their prev_events, so no other event may be appended meanwhile:
        the room stays locked while its policy server is asked.
        """
        policy_id = room.head.snapshot.map[_POLICY_KEY]
        pending_policy = room.pending.get(policy_id)
        if pending_policy is not None:
            policy_event = pending_policy.event
        else:
            stored = await self._events.get_one(policy_id)
            if stored is None or stored.redacted_by is not None:
                return
            policy_event = stored.event
        events = [pending.event for pending in pending_events]
        signed = await self._policies.sign_recommended(room.room_id, policy_event, events)
        for pending, event in zip(pending_events, signed, strict=True):
            pending.event = event
        self._rooms.check_not_dropped(room)

    def _existing_result(
        self, room: HotRoom, draft: Draft, device: DeviceTransactions | None, call: _AppendCall
    ) -> _Result | None:
        if device is not None and draft.txn is not None:
            if device.needs_lookup(draft.txn):
                raise RoomDropped(room.room_id)
            known = device.find(draft.txn)
            if known is not None:
                return known
        return _same_state(room, draft, call) if draft.keep_if_same else None

    async def _fetch(self, room: HotRoom, call: _AppendCall) -> None:
        """Load the events that the drafts need and the room does not hold."""
        auth_ids = room.missing_auth_event_ids(call.drafts)
        event_ids = [*auth_ids, *_referenced_events(room, call.drafts)]
        if not event_ids:
            return
        call.stored = await self._events.get(event_ids)
        self._rooms.check_not_dropped(room)
        room.remember_state_events(
            call.stored[each].effective_event for each in auth_ids if each in call.stored
        )


@attrs.frozen(eq=False)
class _Finish:
    """Records the outcome of a batch in the transactions of the devices."""

    devices: Sequence[DeviceTransactions | None]

    def __call__(self, batch: EventBatch) -> None:
        for pending in batch.events:
            if pending.txn is None:
                continue
            for device in self.devices:
                if device is not None and device.find(pending.txn) is pending:
                    _record_outcome(device, pending, batch)


def _record_outcome(device: DeviceTransactions, pending: PendingEvent, batch: EventBatch) -> None:
    assert pending.txn is not None
    if batch.error is not None:
        device.fail(pending.txn)
        return
    appended = AppendedEvent(
        pending.event.event_id, pending.stream_id, pending.event.room_id, existed=True
    )
    device.finish(pending.txn, appended)


def _with_devices(
    results: Sequence[_Result], devices: Sequence[DeviceTransactions | None]
) -> list[tuple[PendingEvent, DeviceTransactions]]:
    return [
        (result, device)
        for result, device in zip(results, devices, strict=True)
        if isinstance(result, PendingEvent) and device is not None
    ]


def _referenced_events(room: HotRoom, drafts: Sequence[Draft]) -> list[EventID]:
    event_ids = []
    for draft in drafts:
        if draft.redacts is not None and draft.redacts not in room.pending:
            event_ids.append(draft.redacts)
        if draft.keep_if_same and draft.state_key is not None:
            current = room.head.snapshot.map.get((draft.type, draft.state_key))
            if current is not None and current not in room.pending:
                event_ids.append(current)
    return event_ids


def _same_state(room: HotRoom, draft: Draft, call: _AppendCall) -> _Result | None:
    if draft.state_key is None:
        return None
    current = room.head.snapshot.map.get((draft.type, draft.state_key))
    if current is None:
        return None
    pending = room.pending.get(current)
    stored = call.stored.get(current)
    event = pending.event if pending is not None else stored.event if stored is not None else None
    if event is None or event.sender != draft.sender or event.content != draft.content:
        return None
    if pending is not None:
        return pending
    assert stored is not None
    if stored.redacted_by is not None:
        return None
    return AppendedEvent(current, stored.stream_id, room.room_id, existed=True)


def _check_replaced(room: HotRoom, head: RoomHead, draft: Draft) -> None:
    if draft.replaces is None:
        return
    current = head.snapshot.map.get((draft.type, draft.state_key or ""))
    if current != draft.replaces:
        pending = None if current is None else room.pending.get(current)
        raise _ReplacedMeanwhile(None if pending is None else pending.batch)


def _head_with(
    before: RoomHead, pending: PendingEvent, target: Event | None, room: HotRoom
) -> RoomHead:
    """Return the head with the entry of an event that cites only some of the extremities.

    Raises: Forbidden, if the current state does not allow the event.
    """
    event = pending.event
    check_auth(event, before.events, before.power)
    pending.changes = own_state_change(before, event)
    head = head_after(before, event, room.create)
    return (
        head if pending.redacts is None or target is None else head_without_redacted(head, target)
    )


def _check_membership_before(head: RoomHead, draft: Draft) -> None:
    # After the auth rules, which refuse users who may not know the membership.
    if not draft.from_memberships or draft.state_key is None:
        return
    membership = membership_in(head.events, draft.state_key) or event_types.LEAVE
    if membership not in draft.from_memberships:
        raise Forbidden(
            f"The membership of {draft.state_key} is {membership}; "
            f"it must be one of {', '.join(draft.from_memberships)}"
        )


def _redaction_target(
    room: HotRoom, draft: Draft, events: Sequence[PendingEvent], call: _AppendCall
) -> Event | None:
    """Return the event that a draft redacts; None if it is unknown or redacted already."""
    if draft.redacts is None:
        return None
    uncommitted = (*room.pending.values(), *events)
    if any(earlier.redacts == draft.redacts for earlier in uncommitted):
        return None
    for pending in uncommitted:
        if pending.event.event_id == draft.redacts:
            return pending.event
    stored = call.stored.get(draft.redacts)
    if stored is None or stored.redacted_by is not None:
        return None
    return stored.event


def _no_free_room_id() -> MatrixError:
    return MatrixError("M_UNKNOWN", 503, "Could not find an ID for the room; try again")


async def _wait_for_result(result: _Result, batch: EventBatch | None) -> AppendedEvent:
    if isinstance(result, AppendedEvent):
        return result
    return await wait_until_appended(result, existed=result.batch is not batch)
