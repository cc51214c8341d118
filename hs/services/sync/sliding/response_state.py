"""The state of the rooms in a response: from memory, or read together by one statement."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import MembershipHistory
from hs.services.rooms.store.state_store import StateStore
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.services.sync.sliding.room_response import AVATAR_KEY, NAME_KEY, RoomResponse
from hs.storage.database import Database
from hs.storage.sync import sliding_sync

MAX_SCANNED: Final = 5_000
"""Maximum size of a state in memory that is searched for wildcard patterns."""

State = Mapping[StateKey, EventID]


@attrs.frozen(eq=False)
class ResponseState:
    """The loader of room state."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _stays: MembershipHistory

    async def load(self, responses: Sequence[RoomResponse]) -> None:
        """Load into each room at least the state entries that its response needs."""
        unread: list[RoomResponse] = []
        for response in responses:
            if not _is_needed(response):
                continue
            state = await self._in_memory(response)
            if state is None:
                unread.append(response)
            else:
                response.state = state
                if response.plan.last_stream_id is not None:
                    response.forget_later_changes()
        await self._read([room for room in unread if not room.required.needs_all])
        await self._read_all([room for room in unread if room.required.needs_all])

    async def load_members(self, responses: Iterable[RoomResponse]) -> None:
        """Read the changed members of rooms whose changes are unknown, where they are needed."""
        for response in responses:
            plan = response.plan
            if not response.has_unknown_changes or plan.initial or plan.after is None:
                continue
            required = response.required
            if not (required.lazy or required.everything or event_types.MEMBER in required.types):
                continue
            changed_members = await self._database.read(
                sliding_sync.list_members_since, plan.room_id, plan.after.events.floor
            )
            response.changed = {
                **response.changed,
                **{
                    (event_types.MEMBER, user_id): EventID(event_id)
                    for user_id, event_id in changed_members.items()
                },
            }

    async def _in_memory(self, response: RoomResponse) -> State | None:
        plan = response.plan
        if plan.last_stream_id is not None:
            return await self._at_end(plan)
        state = self._states.current_nowait(plan.room_id)
        if state is None or (len(state) > MAX_SCANNED and response.required.has_wildcards):
            return None
        return state

    async def _at_end(self, plan: RoomPlan) -> State:
        if not plan.is_ended_invite:
            return await self._stays.state_at_end(plan.own.event_id)
        stored = await self._events.get_one(plan.own.event_id)
        if stored is None:
            return {}
        return {(event_types.MEMBER, stored.event.state_key or ""): stored.event_id}

    async def _read(self, responses: Sequence[RoomResponse]) -> None:
        if not responses:
            return
        types: set[str] = {NAME_KEY[0], AVATAR_KEY[0]}
        members: set[str] = set()
        for response in responses:
            types |= response.required.types
            for event_type, state_key in response.required.entries:
                if event_type == event_types.MEMBER:
                    members.add(state_key)
                else:
                    types.add(event_type)
            members.update(response.members, response.heroes)
        room_ids = [room.plan.room_id for room in responses]
        entries = await self._database.read(
            sliding_sync.load_state, room_ids, sorted(types), sorted(members)
        )
        _assign(responses, entries)

    async def _read_all(self, responses: Sequence[RoomResponse]) -> None:
        if responses:
            room_ids = [room.plan.room_id for room in responses]
            _assign(responses, await self._database.read(sliding_sync.load_all_state, room_ids))


def _is_needed(response: RoomResponse) -> bool:
    plan = response.plan
    is_complete = (
        plan.initial
        or response.has_unknown_changes
        or plan.has_more_state
        or plan.last_stream_id is not None
    )
    return is_complete or bool(response.members) or bool(response.heroes)


def _assign(
    responses: Iterable[RoomResponse], entries: Collection[sliding_sync.StateEntry]
) -> None:
    states: dict[RoomID, dict[StateKey, EventID]] = {room.plan.room_id: {} for room in responses}
    for entry in entries:
        states[RoomID(entry.room_id)][(entry.type, entry.state_key)] = EventID(entry.event_id)
    for response in responses:
        response.state = states[response.plan.room_id]


def member_key(user_id: UserID) -> StateKey:
    """Return the state key of a user's member event."""
    return (event_types.MEMBER, user_id)
