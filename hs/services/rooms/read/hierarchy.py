"""The tree of rooms below a space, depth first, page by page.

A token says how many rooms were given before it; the walk is repeated up to there, so any
process can go on with it.

Spec: client-server API, Spaces, `/hierarchy`.
"""

import re
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, InvalidParam
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import RoomID, UserID
from hs.core.tokens import PaginationToken
from hs.services.rooms.read.rendering import content_of, stripped_event
from hs.services.rooms.read.room_previews import RoomPreview, RoomPreviews
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

SPACE: Final = "m.space"
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 100
MAX_DEPTH: Final = 50
MAX_ROOMS: Final = 2000

_ORDER: Final = re.compile(r"[\x20-\x7e]{1,50}")


@attrs.frozen
class HierarchyAsk:
    """What part of a tree is asked for."""

    room_id: RoomID
    suggested_only: bool = False
    max_depth: int | None = None
    limit: int | None = None
    start: str | None = None


@attrs.frozen
class HierarchyPage:
    """A part of a tree."""

    rooms: list[JsonObject]
    next_batch: str | None = None


@attrs.frozen(eq=False)
class Hierarchy:
    """Walks trees of rooms for clients."""

    _events: EventStore
    _states: StateStore
    _previews: RoomPreviews

    async def page(self, user_id: UserID, ask: HierarchyAsk) -> HierarchyPage:
        """Give a page of the tree below a room; rooms that the user must not see are left out.

        Raises: Forbidden for the room itself, InvalidParam.
        """
        limit, depth, skipped = _bounds(ask)
        visited = {ask.room_id}
        # The next rooms to visit, the very next one last.
        stack = [(ask.room_id, 0)]
        known = await self._previews.previews(user_id, visited)
        if ask.room_id not in known:
            raise Forbidden("You are not allowed to view this room")
        rooms: list[JsonObject] = []
        count = 0
        while stack and count < MAX_ROOMS:
            room_id, at = stack.pop()
            preview = known.pop(room_id, None)
            if preview is None:
                continue
            if len(rooms) == limit:
                return HierarchyPage(rooms, _token(count, ask, depth))
            children = await self._children(preview, ask.suggested_only)
            if count >= skipped:
                rooms.append(_entry(preview, children))
            count += 1
            if at < depth:
                below = [RoomID(one.event.state_key or "") for one in children]
                new = [one for one in below if one not in visited]
                visited.update(new)
                known.update(await self._previews.previews(user_id, new))
                stack.extend((one, at + 1) for one in reversed(new))
        return HierarchyPage(rooms)

    async def _children(self, preview: RoomPreview, suggested_only: bool) -> list[StoredEvent]:
        if preview.room_type != SPACE:
            return []
        entries = await self._states.current_of_types(preview.room_id, (event_types.SPACE_CHILD,))
        events = await self._events.get(entries.values())
        children = [one for one in events.values() if _is_child(content_of(one))]
        if suggested_only:
            children = [one for one in children if content_of(one).get("suggested") is True]
        return sorted(children, key=lambda one: _sort_key(one.event))


def _bounds(ask: HierarchyAsk) -> tuple[int, int, int]:
    limit = DEFAULT_LIMIT if ask.limit is None else ask.limit
    depth = MAX_DEPTH if ask.max_depth is None else ask.max_depth
    if limit <= 0 or depth < 0:
        raise InvalidParam("limit must be greater than zero, max_depth not negative")
    depth = min(depth, MAX_DEPTH)
    skipped = 0
    if ask.start is not None:
        token = PaginationToken.parse(ask.start, int, int, int)
        skipped, *same = (int(key) for key in token.keys)
        if same != [int(ask.suggested_only), depth] or skipped < 0:
            raise InvalidParam("suggested_only and max_depth cannot change between pages")
    return min(limit, MAX_LIMIT), depth, skipped


def _token(count: int, ask: HierarchyAsk, depth: int) -> str:
    return PaginationToken((count, int(ask.suggested_only), depth)).encode()


def _entry(preview: RoomPreview, children: list[StoredEvent]) -> JsonObject:
    fields = attrs.asdict(preview, filter=lambda field, value: value is not None)
    fields.pop("membership", None)
    fields["children_state"] = [
        {**stripped_event(one), "origin_server_ts": one.event.origin_server_ts} for one in children
    ]
    return fields


def _is_child(content: Any) -> bool:
    # Children without servers to join through are as good as removed.
    via = content.get("via")
    return isinstance(via, list) and len(via) > 0


def _sort_key(event: Event) -> tuple[bool, str, int, str]:
    # Spec: Ordering of children within a space.
    order = event.content.get("order")
    valid = isinstance(order, str) and _ORDER.fullmatch(order) is not None
    return (not valid, str(order) if valid else "", event.origin_server_ts, event.state_key or "")
