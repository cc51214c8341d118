"""The rendering of search results with their context and room state."""

from collections.abc import Sequence
from typing import Any

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.rendering import content_of, json_array
from hs.services.rooms.read.room_state import RoomState
from hs.services.rooms.read.timelines import Timelines
from hs.services.rooms.read.visibility import VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.search.search_request import SearchContextRequest
from hs.storage.directory.search import SearchHit

MAX_CONTEXT_EVENTS = 50
_PROFILE = ("displayname", "avatar_url")


@attrs.frozen(eq=False)
class SearchResultRenderer:
    """The renderer of the parts of a response that contain events."""

    _events: EventStore
    _states: StateStore
    _timelines: Timelines
    _room_state: RoomState
    _showing: EventSerializer

    async def results(
        self,
        requester: Requester,
        results: Sequence[tuple[SearchHit, VisibleEvent]],
        request: SearchContextRequest | None,
    ) -> list[dict[str, Any]]:
        """Render results in order, with context if requested."""
        rendered = await self._showing.timeline(requester, [visible for _, visible in results])
        rendered_results: list[dict[str, Any]] = []
        for (hit, visible), event in zip(results, rendered, strict=True):
            result: dict[str, Any] = {"rank": hit.score, "result": orjson.Fragment(event)}
            if request is not None:
                result["context"] = await self._context(requester, visible, request)
            rendered_results.append(result)
        return rendered_results

    async def state(self, requester: Requester, room_ids: Sequence[RoomID]) -> dict[str, Any]:
        """Return the state of rooms, as of the requester's departure if they have left."""
        return {
            room_id: orjson.Fragment(await self._room_state.all(requester, room_id))
            for room_id in room_ids
        }

    async def _context(
        self, requester: Requester, visible: VisibleEvent, request: SearchContextRequest
    ) -> dict[str, Any]:
        around = await self._timelines.around(
            requester,
            visible,
            max(0, min(request.before_limit, MAX_CONTEXT_EVENTS)),
            max(0, min(request.after_limit, MAX_CONTEXT_EVENTS)),
        )
        render = self._showing.timeline
        context: dict[str, Any] = {
            "start": around.start,
            "end": around.end,
            "events_before": json_array(await render(requester, around.older)),
            "events_after": json_array(await render(requester, around.newer)),
        }
        if request.include_profile:
            context["profile_info"] = await self._profiles([visible, *around.older, *around.newer])
        return context

    async def _profiles(self, events: Sequence[VisibleEvent]) -> dict[str, dict[str, Any]]:
        """Return the senders' profiles at the first of the events, which is the result."""
        senders = dict.fromkeys(event.stored.event.sender for event in events)
        keys = [(event_types.MEMBER, sender) for sender in senders]
        member_ids = await self._states.snapshot_entries(events[0].stored.snapshot_id or 0, keys)
        members = await self._events.get(member_ids.values())
        profiles: dict[str, dict[str, Any]] = {}
        for key, event_id in member_ids.items():
            content = content_of(members[event_id]) if event_id in members else {}
            profiles[key[1]] = {name: content[name] for name in _PROFILE if content.get(name)}
        return profiles
