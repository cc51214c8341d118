"""The summary of a room: how many are in it, and whom it is called after.

Spec: client-server API, Syncing, `summary`.
"""

from collections.abc import Collection, Sequence
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.replaced_state import PreviousStates
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.sync_context import RoomTurn, Section, Turn
from hs.services.sync.timeline_range import Window

# What a room has a name by, and the property that holds it.
_NAMING: Final = (
    ((event_types.NAME, ""), "name"),
    ((event_types.CANONICAL_ALIAS, ""), "alias"),
)
_KEYS: Final = tuple(key for key, _ in _NAMING)
_NAMING_TYPES: Final = (event_types.NAME, event_types.CANONICAL_ALIAS)


@attrs.frozen(eq=False)
class Summary:
    """A summary as JSON, and the heroes in it."""

    json: bytes
    heroes: Sequence[UserID] = ()


@attrs.frozen(eq=False)
class Summaries:
    """Makes summaries."""

    _events: EventStore
    _states: StateStore
    _memberships: Memberships
    _previous: PreviousStates

    async def of(
        self, turn: Turn, turns: Sequence[RoomTurn], windows: dict[RoomID, Window]
    ) -> dict[RoomID, Summary]:
        """Give the summaries of those joined rooms whose members changed."""
        rooms = [
            one.room_id
            for one in turns
            if one.section is Section.JOIN and await self._is_due(one, windows[one.room_id])
        ]
        if not rooms:
            return {}
        present = await self._memberships.present_in(rooms)
        nameless = await self._nameless(rooms)
        summaries: dict[RoomID, Summary] = {}
        for room_id in rooms:
            counts = present[room_id].joined_count, present[room_id].invited_count
            heroes = (
                await self._memberships.heroes(room_id, turn.user_id)
                if room_id in nameless
                else None
            )
            summaries[room_id] = _summary(*counts, heroes)
        return summaries

    async def _is_due(self, one: RoomTurn, window: Window) -> bool:
        if one.complete or not window.is_whole:
            return True
        members: list[EventID | None] = []
        for entry in window.entries:
            for event_type, _, event_id, _ in entry.changes:
                if event_type in _NAMING_TYPES:
                    return True
                if event_type == event_types.MEMBER:
                    members.append(None if event_id is None else EventID(event_id))
        return bool(members) and await self._came_or_went(members)

    async def _came_or_went(self, members: Sequence[EventID | None]) -> bool:
        """Tell whether of some changes of members any is more than a change of profile."""
        events = await self._events.get(one for one in members if one is not None)
        before = await self._previous.of(events.values())
        return any(
            event_id is None
            or event_id not in events
            or event_id not in before
            or _membership(events[event_id]) != _membership(before[event_id])
            for event_id in members
        )

    async def _nameless(self, rooms: Collection[RoomID]) -> set[RoomID]:
        named = {room_id: await self._states.current_of_keys(room_id, _KEYS) for room_id in rooms}
        events = await self._events.get(one for held in named.values() for one in held.values())
        nameless: set[RoomID] = set()
        for room_id, held in named.items():
            contents = [
                (content_of(events[held[key]]), source)
                for key, source in _NAMING
                if key in held and held[key] in events
            ]
            if not any(content.get(source) for content, source in contents):
                nameless.add(room_id)
        return nameless


def _membership(stored: StoredEvent) -> object:
    return stored.event.content.get("membership")


def _summary(joined: int, invited: int, heroes: Sequence[UserID] | None) -> Summary:
    counts = b'"m.joined_member_count":%d,"m.invited_member_count":%d' % (joined, invited)
    if heroes is None:
        return Summary(b"{%b}" % counts)
    return Summary(b'{%b,"m.heroes":%b}' % (counts, orjson.dumps(heroes)), heroes)
