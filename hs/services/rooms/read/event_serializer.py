"""Serialize events for one requester: filter, prepare and render them."""

from collections.abc import Collection, Sequence

import attrs

from hs.core.ids import EventID
from hs.core.requester import Requester
from hs.services.rooms.read.rendering import EventRenderer, Viewer
from hs.services.rooms.read.visibility import Visibility, VisibleEvent
from hs.services.rooms.store.stored_event import StoredEvent


@attrs.frozen(eq=False)
class EventSerializer:
    """Serializes events for requesters, with `room_id`, as all endpoints but /sync do."""

    _visibility: Visibility
    _rendering: EventRenderer

    async def timeline(self, requester: Requester, events: Sequence[VisibleEvent]) -> list[bytes]:
        """Return the JSON of timeline events that the requester may see."""
        viewer = await self._viewer(requester)
        await self.prepare(events, viewer)
        return self._rendering.timeline_events(events, viewer, room_id=True)

    async def prepare(self, visible_events: Sequence[VisibleEvent], viewer: Viewer) -> None:
        """Load what rendering needs; hide bundled events that the viewer may not see."""
        events = [visible.stored for visible in visible_events]
        await self._rendering.prepare(events, viewer)
        children = self._rendering.bundled_children(events, viewer)
        if children:
            visible = await self._visibility.filter_visible(viewer.user_id, children)
            visible_ids = {child.stored.event_id for child in visible}
            viewer.hidden.update(
                child.event_id for child in children if child.event_id not in visible_ids
            )

    async def state(self, requester: Requester, events: Sequence[StoredEvent]) -> list[bytes]:
        """Return the JSON of state events."""
        viewer = self._rendering.viewer(requester)
        await self._rendering.prepare_state(events)
        return self._rendering.state_events(events, viewer, room_id=True)

    async def state_by_id(
        self, requester: Requester, event_ids: Collection[EventID]
    ) -> list[bytes]:
        """Return the JSON of the state events with these IDs, without parsing most of them."""
        viewer = self._rendering.viewer(requester)
        return list((await self._rendering.state_by_id(event_ids, viewer, room_id=True)).values())

    def has_rendered(self, event_ids: Collection[EventID]) -> bool:
        """Return whether `state_by_id` has all of the events in memory."""
        return self._rendering.has_rendered(event_ids)

    def now_ms(self) -> int:
        """Return the time from which the age of events is told."""
        return self._rendering.now_ms()

    async def _viewer(self, requester: Requester) -> Viewer:
        ignored = await self._visibility.ignored_by(requester.user_id)
        return self._rendering.viewer(requester, ignored)
