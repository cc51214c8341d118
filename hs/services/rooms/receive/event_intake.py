"""Receive PDUs of other servers in the process that owns the room.

Rules:

- The checks that depend on nothing but the PDU run before the room is locked, as they wait for
  keys of other servers.
- So does the check for the signature of the room's policy server, which may be asked for it.
- Each PDU is processed on its own: that another of the call is rejected or waiting changes
  nothing but what the state of the room is by then. PDUs that cite each other are sorted first.
- If the room is dropped because a commit failed (see `hot_rooms`), all is done again from what is
  in the database. That is safe: events that were stored meanwhile are reported as KNOWN.
- The lock is released before the commit is awaited, and the call returns when it is done.
- States computed earlier belong to one HotRoom object, so a dropped room takes those with it that
  contain events which were never stored.

Spec: server-server API, Checks performed on receipt of a PDU; Rejection; Soft failure.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import attrs

from hs.core.errors import MatrixError
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.format import parse_old_pdu
from hs.core.ids import EventID, RoomID
from hs.core.versions import room_version
from hs.services.rooms.append.hot_rooms import RoomDropped
from hs.services.rooms.append.policy_servers import PolicyServerCheck
from hs.services.rooms.receive.event_receiver import (
    MissingEvents,
    PduOutcome,
    PduVerdict,
    ReceiveResult,
)
from hs.services.rooms.receive.expected_rooms import ExpectedRooms
from hs.services.rooms.receive.graph_order import arrival_order, auth_order
from hs.services.rooms.receive.pdu_checks import CheckedPdu, PduChecker, RefusedPdu
from hs.services.rooms.receive.pdu_processing import PduProcessor
from hs.services.rooms.receive.received_room import ReceivedRoom, RoomStores
from hs.services.rooms.receive.room_import import (
    RoomImport,
    check_room_import,
    check_same_room,
    import_room,
)

log = logging.getLogger(__name__)

_POLICY_KEY: Final = (event_types.POLICY, "")
ATTEMPTS: Final = 3  # if commits of the room fail while its events are fetched

T = TypeVar("T")


@attrs.frozen(eq=False)
class OwnedRoomReceiver:
    """The RoomReceiver of the process that owns the rooms."""

    _checker: PduChecker
    _stores: RoomStores
    _is_local: Callable[[str], bool]
    _policies: PolicyServerCheck | None = attrs.field(default=None, kw_only=True)
    expected: ExpectedRooms = attrs.Factory(ExpectedRooms)

    async def receive(
        self,
        room_id: RoomID,
        pdus: list[bytes],
        outliers: list[bytes],
        states: dict[EventID, list[EventID]],
        relay: bool = False,
    ) -> ReceiveResult:
        """Receive PDUs of a room; see RoomReceiver."""
        async with self._stores.rooms.hold(room_id) as room:
            rules = room.rules
            policy_id = room.head.snapshot.map.get(_POLICY_KEY)
        checked = await self._checker.check(room_id, rules, pdus)
        checked_outliers = await self._checker.check(room_id, rules, outliers)
        not_recommended: frozenset[EventID] = frozenset()
        if policy_id is not None:
            checked, not_recommended = await self._check_policy(room_id, policy_id, checked)

        async def process(received_room: ReceivedRoom) -> ReceiveResult:
            processor = PduProcessor(received_room, states, relay, not_recommended=not_recommended)
            return await _receive(processor, checked, checked_outliers)

        return await self._in_room(room_id, None, process)

    async def backfill(
        self,
        room_id: RoomID,
        pdus: list[bytes],
        outliers: list[bytes],
        states: dict[EventID, list[EventID]],
        asked_for: list[EventID],
    ) -> ReceiveResult:
        """Receive events of a room's history; see RoomReceiver."""
        async with self._stores.rooms.hold(room_id) as room:
            rules = room.rules
        checked = await self._checker.check(room_id, rules, pdus, parse_old_pdu)
        checked_outliers = await self._checker.check(room_id, rules, outliers, parse_old_pdu)

        async def process(received_room: ReceivedRoom) -> ReceiveResult:
            # The commits of history and of new events do not wait for each other, so nothing is
            # pending when these begin, and the room is held until they are done.
            await received_room.wait_until_committed()
            received_room.is_history = True
            events = await _only_history(received_room, checked, asked_for)
            result = await _receive(PduProcessor(received_room, states), events, checked_outliers)
            await received_room.wait_until_committed()
            return result

        return await self._in_room(room_id, None, process)

    async def expect_room(self, room_id: RoomID, version: str) -> None:
        """Expect a room; see RoomReceiver."""
        self.expected.add(room_id, room_version(version))

    async def seed_room(
        self,
        room_id: RoomID,
        version: str,
        state: list[bytes],
        auth_chain: list[bytes],
        event: bytes,
    ) -> ReceiveResult:
        """Create a room from state received from another server; see RoomReceiver."""
        rules = room_version(version)
        known = set(state)
        auth_chain = [pdu for pdu in auth_chain if pdu not in known]
        checked = await self._checker.check(room_id, rules, [event, *state, *auth_chain])
        refused = sum(isinstance(each, RefusedPdu) for each in checked[1:])
        if refused:
            log.info("room %s: leaving out %d invalid events of %d", room_id, refused, len(checked))
        event_or_refusal = checked[0]
        if isinstance(event_or_refusal, RefusedPdu):
            return ReceiveResult((_refused_verdict(event_or_refusal),), MissingEvents())
        room_import = check_room_import(
            event_or_refusal, _events(checked[1 : len(state) + 1]), _events(checked[1:])
        )

        async def process(received_room: ReceivedRoom) -> ReceiveResult:
            if self._is_present(received_room):
                return await _receive_with_state(received_room, room_import)
            return ReceiveResult((await import_room(received_room, room_import),), MissingEvents())

        return await self._in_room(room_id, room_import, process)

    def _is_present(self, room: ReceivedRoom) -> bool:
        members = room.head.members.items()
        return any(
            membership == event_types.JOIN and self._is_local(user_id)
            for user_id, membership in members
        )

    async def _check_policy(
        self, room_id: RoomID, policy_id: EventID, checked: list[CheckedPdu]
    ) -> tuple[list[CheckedPdu], frozenset[EventID]]:
        """Return the events, signed by the room's policy server, and those that it did not sign."""
        events = _events(checked)
        stored = await self._stores.events.get([policy_id, *(event.event_id for event in events)])
        policy = stored.get(policy_id)
        if self._policies is None or policy is None or policy.redacted_by is not None:
            return checked, frozenset()
        new = [event for event in events if event.event_id not in stored]
        signed, others = await self._policies.check_received(room_id, policy.event, new)
        replaced = [
            signed.get(pdu.event_id, pdu) if isinstance(pdu, Event) else pdu for pdu in checked
        ]
        return replaced, others

    async def _in_room(
        self,
        room_id: RoomID,
        room_import: RoomImport | None,
        process: Callable[[ReceivedRoom], Awaitable[T]],
    ) -> T:
        make = None if room_import is None else room_import.empty_room
        for _ in range(ATTEMPTS):
            try:
                async with self._stores.rooms.hold(room_id, make) as room:
                    received_room = ReceivedRoom.of(room, self._stores)
                    result = await process(received_room)
                    received_room.submit_new()
            except RoomDropped:
                continue
            # An event that is KNOWN may still be pending in the batch of another call.
            for batch in (*received_room.pending_batches.values(), *received_room.batches):
                await batch.wait()
            return result
        raise MatrixError("M_UNKNOWN", 503, "The room's events could not be stored; try again")


async def _receive_with_state(room: ReceivedRoom, room_import: RoomImport) -> ReceiveResult:
    """Receive the event of a room that this server is in, without importing the room again.

    The state that was passed is only used at a gap.
    """
    check_same_room(room, room_import)
    event = room_import.event
    known = await room.find_known(event.prev_events)
    has_gap = any(
        each not in known or not known[each].has_state_before for each in event.prev_events
    )
    states: dict[EventID, list[EventID]] = {}
    outliers = [each for each in room_import.outliers if each.event_id in event.auth_events]
    if has_gap:
        states[event.event_id] = list(room_import.state.values())
        outliers = list(room_import.outliers)
    await room.load({cited for each in outliers for cited in (each.event_id, *each.auth_events)})
    return await _receive(PduProcessor(room, states, distributed=True), [event], outliers)


async def _receive(
    processor: PduProcessor, checked: Sequence[CheckedPdu], checked_outliers: Sequence[CheckedPdu]
) -> ReceiveResult:
    for event in auth_order(_events(checked_outliers)):
        await processor.store_outlier(event)
    events = _events(checked)
    await processor.prepare(events)
    verdicts: dict[EventID, PduVerdict] = {}
    for event in arrival_order(events):
        verdicts[event.event_id] = await processor.process(event)
    verdicts_in_order = tuple(
        _refused_verdict(pdu) if isinstance(pdu, RefusedPdu) else verdicts[pdu.event_id]
        for pdu in checked
    )
    received_ids = {event.event_id for event in events}
    missing = MissingEvents(
        tuple(sorted(processor.missing_prev_events - received_ids)),
        tuple(sorted(processor.missing_auth_events - received_ids)),
    )
    return ReceiveResult(verdicts_in_order, missing)


async def _only_history(
    room: ReceivedRoom, checked: Sequence[CheckedPdu], asked_for: Sequence[EventID]
) -> list[CheckedPdu]:
    """Refuse those events that no stored event and none asked for cites, directly or indirectly."""
    events = {event.event_id: event for event in _events(checked)}
    waiting = [*asked_for, *(await room.load_gaps_and_redactions(list(events)))[0]]
    reached: set[EventID] = set()
    while waiting:
        event_id = waiting.pop()
        if event_id in events and event_id not in reached:
            reached.add(event_id)
            waiting.extend(events[event_id].prev_events)
    return [
        pdu
        if isinstance(pdu, RefusedPdu) or pdu.event_id in reached
        else RefusedPdu(pdu.event_id, "No stored event follows it")
        for pdu in checked
    ]


def _events(checked: Sequence[CheckedPdu]) -> list[Event]:
    by_id = {event.event_id: event for event in checked if isinstance(event, Event)}
    return list(by_id.values())


def _refused_verdict(refusal: RefusedPdu) -> PduVerdict:
    return PduVerdict(refusal.event_id, PduOutcome.REFUSED, refusal.reason)
