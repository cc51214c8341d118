"""The owner's side of appending: drafts become events under the room's lock, then are committed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.errors import BadState, MatrixError
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.core.versions import room_version
from hs.services.rooms.append.drafts import Appended, Draft
from hs.services.rooms.append.event_builder import EventBuilder
from hs.services.rooms.append.hot_room import HotRoom, RoomHead, first_head, follow, own_change
from hs.services.rooms.append.hot_rooms import HotRooms, RoomDropped
from hs.services.rooms.append.pending_events import Batch, NewRoom, Placed, appended
from hs.services.rooms.append.policy_servers import EventPolicies
from hs.services.rooms.append.transaction_ids import DeviceKeys, TxnMemory
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent

ATTEMPTS: Final = 3  # to find a room that stays while its events are fetched
MAX_SHIFT_MS: Final = 1000
_POLICY_KEY: Final = (event_types.POLICY, "")

_Slot = Placed | Appended


class _Overtaken(Exception):
    """What a draft was to replace is not there any more; `batch` if that is not on disk yet."""

    def __init__(self, batch: Batch | None) -> None:
        super().__init__()
        self.batch = batch


@attrs.define(eq=False)
class _Call:
    """One call of append: what it found out before it could begin."""

    drafts: Sequence[Draft]
    devices: Sequence[DeviceKeys | None]
    found: Mapping[EventID, StoredEvent] = attrs.Factory(dict)


@attrs.frozen(eq=False)
class RoomWriter:
    """Appends to the rooms that this process owns; a RoomAppender.

    `owns` tells whether a new room's ID is one of this process's.
    """

    _rooms: HotRooms
    _events: EventStore
    _txns: TxnMemory
    _builder: EventBuilder
    _owns: Callable[[RoomID], bool]
    _policies: EventPolicies

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[Appended]:
        """Append events to a room; see RoomAppender."""
        for _ in range(ATTEMPTS):
            devices = [
                None if draft.txn is None else await self._txns.of(draft.txn) for draft in drafts
            ]
            try:
                async with self._rooms.hold(room_id) as room:
                    slots, batch = await self._append(room, _Call(drafts, devices))
            except RoomDropped:
                continue
            except _Overtaken as overtaken:
                # Whoever looks again is to find what came first.
                if overtaken.batch is not None:
                    await overtaken.batch.wait()
                raise BadState("The state of the room has changed meanwhile") from None
            return [await _answer(slot, batch) for slot in slots]
        raise MatrixError("M_UNKNOWN", 503, "The room's events could not be written; try again")

    async def create(self, version: str, drafts: list[Draft]) -> list[Appended]:
        """Make a room; see RoomAppender."""
        rules = room_version(version)
        first = drafts[0]
        assert first.type == event_types.CREATE
        device = None
        if first.txn is not None:
            device = await self._txns.of(first.txn)
            known = device.find(first.txn)
            if known is not None:
                return [await _answer(known, None)]
        create = self._fresh_create(first, lambda ts: self._builder.create(first, rules, ts))
        room = HotRoom(create.room_id, create, first_head(create))
        head = follow(room.head, create, create)
        changes = own_change(room.head, create)
        placed = [Placed(create, room.head.snapshot, changes, txn=first.txn)]
        for draft in drafts[1:]:
            one, head = self._builder.place(room, head, draft)
            placed.append(one)
        new_room = NewRoom(version, first.sender)
        batch = self._rooms.submit(room, placed, head, new_room, finished=_Finish([device]))
        if device is not None and first.txn is not None:
            device.begin(first.txn, placed[0])
        await batch.wait()
        return [await appended(one, existed=False) for one in placed]

    def _fresh_create(self, draft: Draft, build: Callable[[int], Event]) -> Event:
        # The room's ID decides who owns it, and where it is the hash of the create event, two
        # equal ones of the same millisecond would be the same room: so the time may shift.
        start = draft.origin_server_ts
        if start is None:
            start = self._builder.clock.now_ms()
        for shift in range(MAX_SHIFT_MS):
            create = build(start - shift)
            if self._owns(create.room_id) and create.room_id not in self._rooms:
                return create
        raise MatrixError("M_UNKNOWN", 503, "No ID for the room was found; try again")

    async def _append(self, room: HotRoom, call: _Call) -> tuple[list[_Slot], Batch | None]:
        await self._fetch(room, call)
        # From here to the submission nothing is awaited, but for a policy server.
        head = room.head
        slots: list[_Slot] = []
        placed: list[Placed] = []
        for draft, device in zip(call.drafts, call.devices, strict=True):
            known = self._known(room, draft, device, call)
            if known is None:
                _check_replaced(room, head, draft)
                target = _target(room, draft, placed, call)
                one, head = self._builder.place(room, head, draft, target)
                room.annotations.check(one.event)
                placed.append(one)
                known = one
            slots.append(known)
        if not placed:
            return slots, None
        if _POLICY_KEY in room.head.snapshot.map:
            await self._recommend(room, placed)
        batch = self._rooms.submit(room, placed, head, finished=_Finish(call.devices))
        room.annotations.note(placed)
        for one, device in _with_devices(slots, call.devices):
            if one.batch is batch and one.txn is not None:
                device.begin(one.txn, one)
        return slots, batch

    async def _recommend(self, room: HotRoom, placed: Sequence[Placed]) -> None:
        """Have the room's policy server sign the events.

        It signs events that have their place already, so nobody else may take that meanwhile:
        the room, if it wants this, waits for its policy server.
        """
        policy_id = room.head.snapshot.map[_POLICY_KEY]
        pending = room.pending.get(policy_id)
        if pending is not None:
            chosen = pending.event
        else:
            stored = await self._events.get_one(policy_id)
            if stored is None or stored.redacted_by is not None:
                return
            chosen = stored.event
        events = [one.event for one in placed]
        signed = await self._policies.recommended(room.room_id, chosen, events)
        for one, event in zip(placed, signed, strict=True):
            one.event = event
        self._rooms.check(room)

    def _known(
        self, room: HotRoom, draft: Draft, device: DeviceKeys | None, call: _Call
    ) -> _Slot | None:
        if device is not None and draft.txn is not None:
            if device.is_uncertain(draft.txn):
                raise RoomDropped(room.room_id)
            known = device.find(draft.txn)
            if known is not None:
                return known
        return _same(room, draft, call) if draft.keep_if_same else None

    async def _fetch(self, room: HotRoom, call: _Call) -> None:
        """Bring into memory what the drafts need and the room does not hold."""
        auth_ids = room.unknown_auth_events(call.drafts)
        wanted = [*auth_ids, *_asked_for(room, call.drafts)]
        if not wanted:
            return
        call.found = await self._events.get(wanted)
        self._rooms.check(room)
        room.keep(call.found[one].counting for one in auth_ids if one in call.found)


@attrs.frozen(eq=False)
class _Finish:
    """Tells the devices' memories what became of a batch."""

    devices: Sequence[DeviceKeys | None]

    def __call__(self, batch: Batch) -> None:
        for one in batch.placed:
            if one.txn is None:
                continue
            for device in self.devices:
                if device is not None and device.find(one.txn) is one:
                    _settle(device, one, batch)


def _settle(device: DeviceKeys, one: Placed, batch: Batch) -> None:
    assert one.txn is not None
    if batch.error is not None:
        device.lose(one.txn)
        return
    done = Appended(one.event.event_id, one.stream_id, one.event.room_id, existed=True)
    device.finish(one.txn, done)


def _with_devices(
    slots: Sequence[_Slot], devices: Sequence[DeviceKeys | None]
) -> list[tuple[Placed, DeviceKeys]]:
    return [
        (slot, device)
        for slot, device in zip(slots, devices, strict=True)
        if isinstance(slot, Placed) and device is not None
    ]


def _asked_for(room: HotRoom, drafts: Sequence[Draft]) -> list[EventID]:
    wanted = []
    for draft in drafts:
        if draft.redacts is not None and draft.redacts not in room.pending:
            wanted.append(draft.redacts)
        if draft.keep_if_same and draft.state_key is not None:
            current = room.head.snapshot.map.get((draft.type, draft.state_key))
            if current is not None and current not in room.pending:
                wanted.append(current)
    return wanted


def _same(room: HotRoom, draft: Draft, call: _Call) -> _Slot | None:
    if draft.state_key is None:
        return None
    current = room.head.snapshot.map.get((draft.type, draft.state_key))
    if current is None:
        return None
    pending = room.pending.get(current)
    stored = call.found.get(current)
    event = pending.event if pending is not None else stored.event if stored is not None else None
    if event is None or event.sender != draft.sender or event.content != draft.content:
        return None
    if pending is not None:
        return pending
    assert stored is not None
    if stored.redacted_by is not None:
        return None
    return Appended(current, stored.stream_id, room.room_id, existed=True)


def _check_replaced(room: HotRoom, head: RoomHead, draft: Draft) -> None:
    if draft.replaces is None:
        return
    current = head.snapshot.map.get((draft.type, draft.state_key or ""))
    if current != draft.replaces:
        pending = None if current is None else room.pending.get(current)
        raise _Overtaken(None if pending is None else pending.batch)


def _target(room: HotRoom, draft: Draft, placed: Sequence[Placed], call: _Call) -> Event | None:
    """Find the event that a draft redacts, unless it is unknown or redacted already."""
    if draft.redacts is None:
        return None
    ours = (*room.pending.values(), *placed)
    if any(one.redacts == draft.redacts for one in ours):
        return None
    for one in ours:
        if one.event.event_id == draft.redacts:
            return one.event
    stored = call.found.get(draft.redacts)
    if stored is None or stored.redacted_by is not None:
        return None
    return stored.event


async def _answer(slot: _Slot, batch: Batch | None) -> Appended:
    if isinstance(slot, Appended):
        return slot
    return await appended(slot, existed=slot.batch is not batch)
