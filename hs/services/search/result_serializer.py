"""Renders results of a search, with what happened around them."""

from collections.abc import Sequence
from typing import Any

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.rendering import content_of, json_array
from hs.services.rooms.read.room_state import RoomState
from hs.services.rooms.read.timelines import Timelines
from hs.services.rooms.read.visibility import Seen
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.search.search_request import ContextAsk
from hs.storage.directory.search import Hit

MAX_AROUND = 50
_PROFILE = ("displayname", "avatar_url")


@attrs.frozen(eq=False)
class ResultShowing:
    """Makes the parts of the answer that hold events."""

    _events: EventStore
    _states: StateStore
    _timelines: Timelines
    _room_state: RoomState
    _showing: Showing

    async def results(
        self, requester: Requester, found: Sequence[tuple[Hit, Seen]], ask: ContextAsk | None
    ) -> list[dict[str, Any]]:
        """Render results in their order, with context if it is asked for."""
        rendered = await self._showing.timeline(requester, [seen for _, seen in found])
        results: list[dict[str, Any]] = []
        for (hit, seen), event in zip(found, rendered, strict=True):
            result: dict[str, Any] = {"rank": hit.score, "result": orjson.Fragment(event)}
            if ask is not None:
                result["context"] = await self._context(requester, seen, ask)
            results.append(result)
        return results

    async def state(self, requester: Requester, rooms: Sequence[RoomID]) -> dict[str, Any]:
        """Give the state of rooms; as it was when the requester left, if they did."""
        return {
            room_id: orjson.Fragment(await self._room_state.all(requester, room_id))
            for room_id in rooms
        }

    async def _context(self, requester: Requester, seen: Seen, ask: ContextAsk) -> dict[str, Any]:
        around = await self._timelines.around(
            requester,
            seen,
            max(0, min(ask.before_limit, MAX_AROUND)),
            max(0, min(ask.after_limit, MAX_AROUND)),
        )
        show = self._showing.timeline
        context: dict[str, Any] = {
            "start": around.start,
            "end": around.end,
            "events_before": json_array(await show(requester, around.older)),
            "events_after": json_array(await show(requester, around.newer)),
        }
        if ask.include_profile:
            context["profile_info"] = await self._profiles([seen, *around.older, *around.newer])
        return context

    async def _profiles(self, seen: Sequence[Seen]) -> dict[str, dict[str, Any]]:
        """Give the senders' profiles as they were at the first of the events, the result."""
        senders = dict.fromkeys(one.stored.event.sender for one in seen)
        keys = [(event_types.MEMBER, sender) for sender in senders]
        held = await self._states.of_snapshot(seen[0].stored.snapshot_id or 0, keys)
        members = await self._events.get(held.values())
        profiles: dict[str, dict[str, Any]] = {}
        for key, event_id in held.items():
            content = content_of(members[event_id]) if event_id in members else {}
            profiles[key[1]] = {name: content[name] for name in _PROFILE if content.get(name)}
        return profiles
