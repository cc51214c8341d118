"""Events of other servers on their way into rooms: judged one by one under the room's lock.

Spec: server-server API, Checks performed on receipt of a PDU; Rejection; Soft failure.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import attrs

from hs.core.errors import MatrixError
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.core.versions import room_version
from hs.services.rooms.append.hot_room import HotRoom
from hs.services.rooms.append.hot_rooms import RoomDropped
from hs.services.rooms.receive.event_receiver import Missing, Outcome, Received, Verdict
from hs.services.rooms.receive.graph_order import arrival_order, auth_order
from hs.services.rooms.receive.pdu_checks import Checked, PduChecker, Refusal
from hs.services.rooms.receive.pdu_processing import Intake
from hs.services.rooms.receive.received_room import GrowingRoom, RoomStores, StateMemory
from hs.services.rooms.receive.room_import import Seed, plant, seed_of

ATTEMPTS: Final = 3  # to find a room that stays while its events are fetched

T = TypeVar("T")


@attrs.frozen(eq=False)
class RoomInbound:
    """Receives for the rooms that this process owns; a RoomReceiver."""

    _checker: PduChecker
    _stores: RoomStores
    _memories: WeakKeyDictionary[HotRoom, StateMemory] = attrs.Factory(WeakKeyDictionary)

    async def receive(
        self,
        room_id: RoomID,
        pdus: list[bytes],
        outliers: list[bytes],
        states: dict[EventID, list[EventID]],
    ) -> Received:
        """Receive PDUs of a room; see RoomReceiver."""
        async with self._stores.rooms.hold(room_id) as room:
            rules = room.rules
        checked = await self._checker.check(room_id, rules, pdus)
        beside = await self._checker.check(room_id, rules, outliers)

        async def enter(growing: GrowingRoom) -> Received:
            return await _receive(growing, checked, beside, states)

        return await self._in_room(room_id, None, enter)

    async def seed_room(
        self,
        room_id: RoomID,
        version: str,
        state: list[bytes],
        auth_chain: list[bytes],
        event: bytes,
    ) -> Received:
        """Begin a room; see RoomReceiver."""
        rules = room_version(version)
        checked = await self._checker.check(room_id, rules, [event, *state, *auth_chain])
        first = checked[0]
        if isinstance(first, Refusal):
            return Received((_refused(first),), Missing())
        seed = seed_of(first, _events(checked[1 : len(state) + 1]), _events(checked[1:]))

        async def enter(growing: GrowingRoom) -> Received:
            return Received((await plant(growing, seed),), Missing())

        return await self._in_room(room_id, seed, enter)

    async def _in_room(
        self, room_id: RoomID, seed: Seed | None, enter: Callable[[GrowingRoom], Awaitable[T]]
    ) -> T:
        make = None if seed is None else seed.empty_room
        for _ in range(ATTEMPTS):
            try:
                async with self._stores.rooms.hold(room_id, make) as room:
                    memory = self._memories.setdefault(room, StateMemory())
                    growing = GrowingRoom(room, self._stores, memory, room.head)
                    result = await enter(growing)
                    growing.hand_over()
            except RoomDropped:
                continue
            for batch in growing.batches:
                await batch.wait()
            return result
        raise MatrixError("M_UNKNOWN", 503, "The room's events could not be written; try again")


async def _receive(
    growing: GrowingRoom,
    checked: Sequence[Checked],
    beside: Sequence[Checked],
    states: Mapping[EventID, Sequence[EventID]],
) -> Received:
    intake = Intake(growing, states)
    for event in auth_order(_events(beside)):
        await intake.keep_beside(event)
    events = _events(checked)
    await intake.prepare(events)
    verdicts: dict[EventID, Verdict] = {}
    for event in arrival_order(events):
        verdicts[event.event_id] = await intake.judge(event)
    found = tuple(
        _refused(one) if isinstance(one, Refusal) else verdicts[one.event_id] for one in checked
    )
    ours = {event.event_id for event in events}
    missing = Missing(
        tuple(sorted(intake.missing_prev_events - ours)),
        tuple(sorted(intake.missing_auth_events - ours)),
    )
    return Received(found, missing)


def _events(checked: Sequence[Checked]) -> list[Event]:
    by_id = {one.event_id: one for one in checked if isinstance(one, Event)}
    return list(by_id.values())


def _refused(refusal: Refusal) -> Verdict:
    return Verdict(refusal.event_id, Outcome.REFUSED, refusal.reason)
