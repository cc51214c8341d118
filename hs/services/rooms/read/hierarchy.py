"""The hierarchy of rooms below a space, depth first, page by page.

A pagination token contains the number of rooms returned before it. The walk is repeated up to that
number, so every process can continue it.

Spec: client-server API, Spaces, `/hierarchy`.
"""

import re
from collections.abc import Sequence
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
class HierarchyRequest:
    """A request for a page of a hierarchy."""

    room_id: RoomID
    suggested_only: bool = False
    max_depth: int | None = None
    limit: int | None = None
    start: str | None = None


@attrs.frozen
class HierarchyPage:
    """A page of a hierarchy."""

    rooms: list[JsonObject]
    next_batch: str | None = None


@attrs.frozen(eq=False)
class Hierarchy:
    """Walks hierarchies of rooms for clients."""

    _events: EventStore
    _states: StateStore
    _previews: RoomPreviews

    async def page(self, user_id: UserID, request: HierarchyRequest) -> HierarchyPage:
        """Return a page of the hierarchy; rooms that the user may not see are left out.

        Raises: Forbidden, if the user may not see the root room; InvalidParam.
        """
        limit, max_depth, skipped = _bounds(request)
        visited = {request.room_id}
        # The rooms to visit next, the very next at the end.
        stack = [(request.room_id, 0)]
        previews = await self._previews.previews(user_id, visited)
        if request.room_id not in previews:
            raise Forbidden("You are not allowed to view this room")
        rooms: list[JsonObject] = []
        count = 0
        while stack and count < MAX_ROOMS:
            room_id, depth_of_room = stack.pop()
            preview = previews.pop(room_id, None)
            if preview is None:
                continue
            if len(rooms) == limit:
                return HierarchyPage(rooms, _token(count, request, max_depth))
            children = await self.children(preview, request.suggested_only)
            if count >= skipped:
                rooms.append(hierarchy_entry(preview, children))
            count += 1
            if depth_of_room < max_depth:
                child_ids = [RoomID(child.event.state_key or "") for child in children]
                new = [child_id for child_id in child_ids if child_id not in visited]
                visited.update(new)
                previews.update(await self._previews.previews(user_id, new))
                stack.extend((child_id, depth_of_room + 1) for child_id in reversed(new))
        return HierarchyPage(rooms)

    async def children(self, preview: RoomPreview, suggested_only: bool) -> list[StoredEvent]:
        """Return the valid children of a space, in their order."""
        if preview.room_type != SPACE:
            return []
        entries = await self._states.current_of_types(preview.room_id, (event_types.SPACE_CHILD,))
        events = await self._events.get(entries.values())
        children = [child for child in events.values() if _is_child(content_of(child))]
        if suggested_only:
            children = [child for child in children if content_of(child).get("suggested") is True]
        return sorted(children, key=lambda child: _sort_key(child.event))


def _bounds(request: HierarchyRequest) -> tuple[int, int, int]:
    limit = DEFAULT_LIMIT if request.limit is None else request.limit
    depth = MAX_DEPTH if request.max_depth is None else request.max_depth
    if limit <= 0 or depth < 0:
        raise InvalidParam("limit must be greater than zero, and max_depth must not be negative")
    depth = min(depth, MAX_DEPTH)
    skipped = 0
    if request.start is not None:
        token = PaginationToken.parse(request.start, int, int, int)
        skipped, *parameters = (int(key) for key in token.keys)
        if parameters != [int(request.suggested_only), depth] or skipped < 0:
            raise InvalidParam("suggested_only and max_depth must be the same for all pages")
    return min(limit, MAX_LIMIT), depth, skipped


def _token(count: int, request: HierarchyRequest, depth: int) -> str:
    return PaginationToken((count, int(request.suggested_only), depth)).encode()


def hierarchy_entry(preview: RoomPreview, children: Sequence[StoredEvent]) -> JsonObject:
    """Return a room as `/hierarchy` lists it."""
    fields = attrs.asdict(preview, filter=lambda field, value: value is not None)
    fields.pop("membership", None)
    fields["children_state"] = [
        {**stripped_event(child), "origin_server_ts": child.event.origin_server_ts}
        for child in children
    ]
    return fields


def _is_child(content: Any) -> bool:
    # Spec: a child without a valid `via` is not a child.
    via = content.get("via")
    return isinstance(via, list) and len(via) > 0


def _sort_key(event: Event) -> tuple[bool, str, int, str]:
    # Spec: Ordering of children within a space.
    order = event.content.get("order")
    valid = isinstance(order, str) and _ORDER.fullmatch(order) is not None
    return (not valid, str(order) if valid else "", event.origin_server_ts, event.state_key or "")
