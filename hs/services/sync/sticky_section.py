"""The sticky events of joined rooms, which a response contains whatever its timelines contain.

Rules:

- They are selected before the timelines are rendered, and those that turn out to be in a timeline
  are left out when the room is rendered.
- A response has at most MAX_EVENTS of them, the earliest first; `reached` then becomes part of its
  token, and the next response continues there, at once.
- Filters of timelines and of state do not apply, those of rooms do. Messages of ignored users and
  those that retention hides are left out, and so are those that the user may see only redacted.

Spec: MSC4354, Current `/sync`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.visibility import Visibility, VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.sticky_events import StickyEvents, StickyScope
from hs.services.sync.room_selection import RoomSelection
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext
from hs.services.sync.timeline_section import apply_event_format
from hs.storage.rooms.sticky_events import StickyRecord

MAX_EVENTS: Final = 100


@attrs.frozen(eq=False)
class StickyRoomEvents:
    """The sticky events of a response by room.

    `reached` is the position to continue from; None if these are all. `is_empty` is true if no
    event of the response can be sticky.
    """

    by_room: Mapping[RoomID, Sequence[VisibleEvent]]
    reached: VectorPosition | None
    is_empty: bool


NO_STICKY_EVENTS: Final = StickyRoomEvents({}, None, is_empty=True)


@attrs.frozen(eq=False)
class StickySection:
    """The reader and renderer of sticky events for `/sync`."""

    _sticky: StickyEvents
    _events: EventStore
    _visibility: Visibility
    _rendering: EventRenderer
    _selection: RoomSelection

    async def load(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext]
    ) -> StickyRoomEvents:
        """Return the sticky events that the client has not received yet."""
        since = None if context.since is None else context.since.sticky or context.since.events
        if since is context.events_position:
            return NO_STICKY_EVENTS
        if (
            since is not None
            and self._sticky.has_none_after(since)
            and not any(room.is_new for room in room_contexts)
        ):
            return NO_STICKY_EVENTS
        scope = self._scope(context, room_contexts)
        page = await self._sticky.page(scope, since, context.events_position, MAX_EVENTS)
        visible = await visible_sticky_events(
            context.user_id, page.records, self._events, self._visibility
        )
        return StickyRoomEvents(visible, page.reached, is_empty=not page.records)

    def _scope(self, context: SyncContext, room_contexts: Sequence[RoomSyncContext]) -> StickyScope:
        joined = {
            room.room_id: room for room in room_contexts if room.section is MembershipSection.JOIN
        }
        is_initial = context.since is None
        rooms, selection = context.rooms, self._selection

        def includes(room_id: RoomID) -> bool:
            if room_id in joined:
                return True
            # Rooms without new events are not in the selection. If the memberships are ahead of
            # the response, the user may join such a room after its end: the events come early.
            own = rooms.get(room_id)
            return (
                not is_initial
                and own is not None
                and own.membership == event_types.JOIN
                and selection.allows_room(context, room_id)
            )

        new_rooms = [room_id for room_id, room in joined.items() if room.is_new]
        return StickyScope(includes, lambda: filter(includes, rooms), new_rooms)

    async def render(
        self, context: SyncContext, events: Sequence[VisibleEvent], shown: Collection[EventID]
    ) -> list[bytes]:
        """Render the sticky events of a room but those that its timeline shows."""
        remaining = [event for event in events if event.stored.event_id not in shown]
        if not remaining:
            return []
        await self._rendering.prepare([event.stored for event in remaining], context.viewer)
        rendered = self._rendering.timeline_events(remaining, context.viewer, room_id=False)
        if not context.compiled_filter.shapes_events:
            return rendered
        return [
            apply_event_format(context.compiled_filter, event.stored, text)
            for event, text in zip(remaining, rendered, strict=True)
        ]


async def visible_sticky_events(
    user_id: UserID, records: Sequence[StickyRecord], events: EventStore, visibility: Visibility
) -> Mapping[RoomID, Sequence[VisibleEvent]]:
    """Return those of the events that the user gets to see, by room."""
    if not records:
        return {}
    stored = await events.get(EventID(record.event_id) for record in records)
    by_room: dict[RoomID, list[VisibleEvent]] = {}
    for event in await visibility.filter_visible(user_id, list(stored.values())):
        if event.stored.redacted_by is None and not event.pruned:
            by_room.setdefault(event.stored.event.room_id, []).append(event)
    return by_room
