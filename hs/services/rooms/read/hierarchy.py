"""The hierarchy of rooms below a space, depth first, page by page.

Rooms that this server is not in are asked for at the servers in `via`, within bounds; what those
answer is filtered for the user.

A pagination token contains the number of rooms returned before it. The walk is repeated up to that
number, so every process can continue it.

Spec: client-server API, Spaces, `/hierarchy`.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
import trio

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, InvalidParam
from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName, UserID, parse_server_name, server_in
from hs.core.tokens import PaginationToken
from hs.services.rooms.read.remote_spaces import RemoteSpaces
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
MAX_REMOTE_ROOMS: Final = 20  # that other servers are asked about, for a page
MAX_VIA: Final = 10
REMOTE_S: Final = 20.0  # how long other servers are asked, for a page

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


@attrs.frozen
class _SpaceNode:
    """A room of a hierarchy, and its children with the servers to ask about them."""

    entry: JsonObject
    children: Sequence[tuple[RoomID, Sequence[ServerName]]]


@attrs.define(eq=False)
class _SpaceWalk:
    """The state of a walk for a user.

    `previews` are those of local rooms not visited yet, `here` the rooms that this server is in,
    `offered` what other servers said of rooms without being asked, `inaccessible` the rooms that
    this server may not see according to them.
    """

    user_id: UserID
    suggested_only: bool
    deadline: float
    vias: dict[RoomID, Sequence[ServerName]]
    previews: dict[RoomID, RoomPreview] = attrs.Factory(dict)
    here: set[RoomID] = attrs.Factory(set)
    offered: dict[RoomID, JsonObject] = attrs.Factory(dict)
    inaccessible: set[RoomID] = attrs.Factory(set)
    requests_left: int = MAX_REMOTE_ROOMS


@attrs.frozen(eq=False)
class Hierarchy:
    """Walks hierarchies of rooms for clients."""

    _events: EventStore
    _states: StateStore
    _previews: RoomPreviews
    _remote: RemoteSpaces

    async def page(self, user_id: UserID, request: HierarchyRequest) -> HierarchyPage:
        """Return a page of the hierarchy; rooms that the user may not see are left out.

        Raises: Forbidden, if the user may not see the root room; InvalidParam.
        """
        limit, max_depth, skipped = _bounds(request)
        server = server_in(request.room_id)
        walk = _SpaceWalk(
            user_id,
            request.suggested_only,
            trio.current_time() + REMOTE_S,
            {request.room_id: () if server is None else (server,)},
        )
        await self._prepare(walk, [request.room_id])
        # The rooms to visit next, the very next at the end.
        stack = [(request.room_id, 0)]
        rooms: list[JsonObject] = []
        count = 0
        while stack and count < MAX_ROOMS:
            room_id, depth_of_room = stack.pop()
            node = await self._node(walk, room_id)
            if node is None:
                continue
            if len(rooms) == limit:
                return HierarchyPage(rooms, _token(count, request, max_depth))
            if count >= skipped:
                rooms.append(node.entry)
            count += 1
            if depth_of_room < max_depth:
                new = [
                    (child_id, via) for child_id, via in node.children if child_id not in walk.vias
                ]
                walk.vias.update(new)
                new_ids = list(dict(new))
                await self._prepare(walk, new_ids)
                stack.extend((child_id, depth_of_room + 1) for child_id in reversed(new_ids))
        if not count:
            raise Forbidden("You are not allowed to view this room")
        return HierarchyPage(rooms)

    async def _prepare(self, walk: _SpaceWalk, room_ids: Sequence[RoomID]) -> None:
        walk.previews.update(await self._previews.previews(walk.user_id, room_ids))
        unknown = [room_id for room_id in room_ids if room_id not in walk.previews]
        if unknown:
            walk.here.update(await self._previews.local_rooms(unknown))

    async def _node(self, walk: _SpaceWalk, room_id: RoomID) -> _SpaceNode | None:
        """Return a room that the user may see, from this server or others; else None."""
        preview = walk.previews.pop(room_id, None)
        if preview is None:
            return None if room_id in walk.here else await self._remote_node(walk, room_id)
        children = await self.children(preview, walk.suggested_only)
        return _SpaceNode(
            hierarchy_entry(preview, children),
            [
                (RoomID(child.event.state_key or ""), _servers_in(content_of(child)))
                for child in children
            ],
        )

    async def _remote_node(self, walk: _SpaceWalk, room_id: RoomID) -> _SpaceNode | None:
        room = walk.offered.pop(room_id, None)
        if room is None and room_id not in walk.inaccessible and walk.requests_left:
            walk.requests_left -= 1
            space = None
            with trio.move_on_at(walk.deadline):
                space = await self._remote.find(room_id, walk.vias[room_id], walk.suggested_only)
            if space is not None:
                room = space.room
                walk.offered.update(space.children)
                walk.inaccessible |= space.inaccessible
        if room is None or not await self._previews.may_see_remote(walk.user_id, room):
            return None
        children = [
            state
            for state in room["children_state"]
            if _is_child(state["content"])
            and (not walk.suggested_only or state["content"].get("suggested") is True)
        ]
        children.sort(key=_sort_key)
        return _SpaceNode(
            {**room, "children_state": children},
            [(RoomID(state["state_key"]), _servers_in(state["content"])) for state in children],
        )

    async def children(self, preview: RoomPreview, suggested_only: bool) -> list[StoredEvent]:
        """Return the valid children of a space, in their order."""
        if preview.room_type != SPACE:
            return []
        entries = await self._states.current_of_types(preview.room_id, (event_types.SPACE_CHILD,))
        events = await self._events.get(entries.values())
        children = [child for child in events.values() if _is_child(content_of(child))]
        if suggested_only:
            children = [child for child in children if content_of(child).get("suggested") is True]
        return sorted(children, key=lambda child: _sort_key(_child_state(child)))


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
    fields["children_state"] = [_child_state(child) for child in children]
    return fields


def _child_state(child: StoredEvent) -> JsonObject:
    return {**stripped_event(child), "origin_server_ts": child.event.origin_server_ts}


def _is_child(content: Any) -> bool:
    # Spec: a child without a valid `via` is not a child.
    via = content.get("via")
    return isinstance(via, list) and len(via) > 0


def _servers_in(content: Mapping[str, Any]) -> list[ServerName]:
    servers: list[ServerName] = []
    for name in content["via"][:MAX_VIA]:
        with suppress(InvalidParam):
            servers.append(parse_server_name(name))
    return servers


def _sort_key(child: JsonObject) -> tuple[bool, str, int, str]:
    # Spec: Ordering of children within a space.
    order = child["content"].get("order")
    valid = isinstance(order, str) and _ORDER.fullmatch(order) is not None
    return (not valid, str(order) if valid else "", child["origin_server_ts"], child["state_key"])
