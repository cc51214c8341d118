"""The state of the rooms of an answer: from memory, or read together by one statement."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import Stays
from hs.services.rooms.store.state_store import StateStore
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.services.sync.sliding.room_response import AVATAR_KEY, NAME_KEY, Telling
from hs.storage.database import Database
from hs.storage.sync import sliding_sync

MAX_SCANNED: Final = 5_000
"""A state with more entries is not searched in memory for patterns."""

State = Mapping[StateKey, EventID]


@attrs.frozen(eq=False)
class RoomStates:
    """Loads state."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _stays: Stays

    async def load(self, tellings: Sequence[Telling]) -> None:
        """Give each room as much of its state as is asked for."""
        unread: list[Telling] = []
        for telling in tellings:
            if not _is_needed(telling):
                continue
            state = await self._in_memory(telling)
            if state is None:
                unread.append(telling)
            else:
                telling.state = state
                if telling.plan.last is not None:
                    telling.forget_later_changes()
        some = [one for one in unread if not one.required.needs_all]
        await self._read(some)
        await self._read_all([one for one in unread if one.required.needs_all])

    async def load_members(self, tellings: Iterable[Telling]) -> None:
        """Find which members changed where memory does not tell, if anybody wants to know."""
        for telling in tellings:
            plan = telling.plan
            if not telling.is_vague or plan.initial or plan.after is None:
                continue
            required = telling.required
            if not (required.lazy or required.everything or event_types.MEMBER in required.types):
                continue
            found = await self._database.read(
                sliding_sync.members_since, plan.room_id, plan.after.events.floor
            )
            telling.changed = {
                **telling.changed,
                **{(event_types.MEMBER, who): EventID(one) for who, one in found.items()},
            }

    async def _in_memory(self, telling: Telling) -> State | None:
        plan = telling.plan
        if plan.last is not None:
            return await self._at_end(plan)
        held = self._states.current_nowait(plan.room_id)
        if held is None or (len(held) > MAX_SCANNED and telling.required.has_wildcards):
            return None
        return held

    async def _at_end(self, plan: RoomPlan) -> State:
        if not plan.is_alone:
            return await self._stays.state_at_end(plan.own.event_id)
        stored = await self._events.get_one(plan.own.event_id)
        if stored is None:
            return {}
        return {(event_types.MEMBER, stored.event.state_key or ""): stored.event_id}

    async def _read(self, tellings: Sequence[Telling]) -> None:
        if not tellings:
            return
        types: set[str] = {NAME_KEY[0], AVATAR_KEY[0]}
        members: set[str] = set()
        for telling in tellings:
            types |= telling.required.types
            for event_type, state_key in telling.required.entries:
                if event_type == event_types.MEMBER:
                    members.add(state_key)
                else:
                    types.add(event_type)
            members.update(telling.members, telling.heroes)
        room_ids = [one.plan.room_id for one in tellings]
        found = await self._database.read(
            sliding_sync.state_of, room_ids, sorted(types), sorted(members)
        )
        _hand_out(tellings, found)

    async def _read_all(self, tellings: Sequence[Telling]) -> None:
        if tellings:
            room_ids = [one.plan.room_id for one in tellings]
            _hand_out(tellings, await self._database.read(sliding_sync.all_state_of, room_ids))


def _is_needed(telling: Telling) -> bool:
    plan = telling.plan
    whole = plan.initial or telling.is_vague or plan.is_wider or plan.last is not None
    return whole or bool(telling.members) or bool(telling.heroes)


def _hand_out(tellings: Iterable[Telling], found: Collection[sliding_sync.StateEntry]) -> None:
    states: dict[RoomID, dict[StateKey, EventID]] = {one.plan.room_id: {} for one in tellings}
    for entry in found:
        states[RoomID(entry.room_id)][(entry.type, entry.state_key)] = EventID(entry.event_id)
    for telling in tellings:
        telling.state = states[telling.plan.room_id]


def member_key(user_id: UserID) -> StateKey:
    """Give the entry of the state that holds a user's membership."""
    return (event_types.MEMBER, user_id)
