"""The `summary` of a room: its member counts and its heroes.

Spec: client-server API, Syncing, `summary`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.read.event_prefixes import EventPrefix
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext
from hs.services.sync.timeline_range import TimelineRange

# The state events that name a room, and the property that holds the name.
_NAMING: Final = (
    ((event_types.NAME, ""), "name"),
    ((event_types.CANONICAL_ALIAS, ""), "alias"),
)
_KEYS: Final = tuple(key for key, _ in _NAMING)
_NAMING_TYPES: Final = (event_types.NAME, event_types.CANONICAL_ALIAS)


@attrs.frozen(eq=False)
class RoomSummary:
    """An encoded summary, and the heroes in it."""

    json: bytes
    heroes: Sequence[UserID] = ()


@attrs.frozen(eq=False)
class RoomSummaries:
    """The renderer of room summaries."""

    _events: EventStore
    _states: StateStore
    _memberships: Memberships

    async def of(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        ranges: dict[RoomID, TimelineRange],
        loaded: Mapping[EventID, EventPrefix],
    ) -> dict[RoomID, RoomSummary]:
        """Return the summaries of the joined rooms whose members or name changed.

        `loaded` are state events that the caller has loaded.
        """
        rooms = [
            room.room_id
            for room in room_contexts
            if room.section is MembershipSection.JOIN
            and await self._is_due(room, ranges[room.room_id])
        ]
        if not rooms:
            return {}
        nameless = await self._nameless(rooms, loaded)
        if nameless:
            await self._memberships.present_in(nameless)
        summaries: dict[RoomID, RoomSummary] = {}
        for room_id, counts in (await self._memberships.member_counts(rooms)).items():
            heroes = (
                await self._memberships.heroes(room_id, context.user_id)
                if room_id in nameless
                else None
            )
            summaries[room_id] = _summary(*counts, heroes)
        return summaries

    async def _is_due(self, room: RoomSyncContext, timeline_range: TimelineRange) -> bool:
        if room.needs_full_state or not timeline_range.is_exact:
            return True
        members: list[EventID | None] = []
        for entry in timeline_range.entries:
            for event_type, _, event_id, _ in entry.changes:
                if event_type in _NAMING_TYPES:
                    return True
                if event_type == event_types.MEMBER:
                    members.append(None if event_id is None else EventID(event_id))
        return bool(members) and await self._any_membership_changed(members)

    async def _any_membership_changed(self, members: Sequence[EventID | None]) -> bool:
        """Return whether any of these member events changes more than a profile."""
        events = await self._events.get(event_id for event_id in members if event_id is not None)
        before = await self._states.replaced_events(events.values())
        return any(
            event_id is None
            or event_id not in events
            or event_id not in before
            or _membership(events[event_id]) != _membership(before[event_id])
            for event_id in members
        )

    async def _nameless(
        self, rooms: Collection[RoomID], loaded: Mapping[EventID, EventPrefix]
    ) -> set[RoomID]:
        naming_state = {
            room_id: await self._states.current_of_keys(room_id, _KEYS) for room_id in rooms
        }
        ids = [event_id for state in naming_state.values() for event_id in state.values()]
        contents = {each: loaded[each].content() for each in ids if each in loaded}
        events = await self._events.get(each for each in ids if each not in loaded)
        contents.update((event_id, content_of(stored)) for event_id, stored in events.items())
        return {
            room_id
            for room_id, state in naming_state.items()
            if not any(
                contents[state[key]].get(property_name)
                for key, property_name in _NAMING
                if key in state and state[key] in contents
            )
        }


def _membership(stored: StoredEvent) -> object:
    return stored.event.content.get("membership")


def _summary(joined: int, invited: int, heroes: Sequence[UserID] | None) -> RoomSummary:
    counts = b'"m.joined_member_count":%d,"m.invited_member_count":%d' % (joined, invited)
    if heroes is None:
        return RoomSummary(b"{%b}" % counts)
    return RoomSummary(b'{%b,"m.heroes":%b}' % (counts, orjson.dumps(heroes)), heroes)
