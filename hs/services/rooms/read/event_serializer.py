"""From events to what one requester gets of them: seen, prepared and rendered in one go."""

from collections.abc import Sequence

import attrs

from hs.core.requester import Requester
from hs.services.rooms.read.rendering import Rendering, Viewer
from hs.services.rooms.read.visibility import Seen, Visibility
from hs.services.rooms.store.stored_event import StoredEvent


@attrs.frozen(eq=False)
class Showing:
    """Renders events for requesters, with `room_id` as all endpoints but /sync do."""

    _visibility: Visibility
    _rendering: Rendering

    async def timeline(self, requester: Requester, seen: Sequence[Seen]) -> list[bytes]:
        """Render events of a history that the requester may see."""
        viewer = await self._viewer(requester)
        await self.prepare(seen, viewer)
        return self._rendering.timeline_events(seen, viewer, room_id=True)

    async def prepare(self, seen: Sequence[Seen], viewer: Viewer) -> None:
        """Read what rendering needs, and hide from bundles what the viewer may not see."""
        events = [one.stored for one in seen]
        await self._rendering.prepare(events, viewer)
        children = self._rendering.bundled_children(events, viewer)
        if children:
            visible = await self._visibility.filter_visible(viewer.user_id, children)
            shown = {one.stored.event_id for one in visible}
            viewer.hidden.update(one.event_id for one in children if one.event_id not in shown)

    async def state(self, requester: Requester, events: Sequence[StoredEvent]) -> list[bytes]:
        """Render events as parts of a state."""
        viewer = self._rendering.viewer(requester)
        await self._rendering.prepare_state(events)
        return self._rendering.state_events(events, viewer, room_id=True)

    async def _viewer(self, requester: Requester) -> Viewer:
        ignored = await self._visibility.ignored_by(requester.user_id)
        return self._rendering.viewer(requester, ignored)
