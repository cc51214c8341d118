"""The extension of sticky events, with a token of its own.

Rules:

- The token is a position in the stream of events. The client returns it as `since`, and so
  acknowledges what it has received; without it, all events that are still sticky are sent. So are
  they if the token is ahead of this process, as after the restore of a backup: rather twice than
  never.
- The rooms are those that the user is joined to and that a list or subscription matches, whether
  in a range or not. All events that are still sticky are sent of rooms that the user has joined
  since the token, and of rooms that are new to the connection.
- Events that the response has in a timeline are left out.
- `next_batch` moves with every response, so that what follows it is little. Only events, or that
  more are to come, end the waiting.

Spec: MSC4480.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.visibility import Visibility, VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.sticky_events import StickyEvents, StickyScope
from hs.services.rooms.store.stored_event import membership_in
from hs.services.sync.sliding.request import StickyExtensionRequest
from hs.services.sync.sliding.room_lists import RequestedRooms, SlidingSyncContext
from hs.services.sync.sticky_section import MAX_EVENTS, visible_sticky_events

STICKY_EXTENSION: Final = "org.matrix.msc4354.sticky_events"
MAX_STEPS_BACK: Final = 50
_PREFIX: Final = "k"


@attrs.frozen(eq=False)
class StickyExtensionContext:
    """The response that the extension is part of.

    `shown` are the events of its timelines, `new_rooms` the rooms that are new to the connection.
    """

    request_context: SlidingSyncContext
    requested: RequestedRooms
    upto: VectorPosition
    new_rooms: Collection[RoomID]
    shown: AbstractSet[EventID]


@attrs.frozen(eq=False)
class StickyExtension:
    """The renderer of the extension."""

    _sticky: StickyEvents
    _events: EventStore
    _states: StateStore
    _visibility: Visibility
    _rendering: EventRenderer

    async def make(
        self, context: StickyExtensionContext, request: StickyExtensionRequest
    ) -> tuple[dict[str, Any], bool]:
        """Return the extension, and whether it has changes. Raises: InvalidParam."""
        if not request.enabled:
            return {}, False
        since = None if request.since is None else _parse(request.since)
        if since is not None and not context.upto.covers_all(since):
            since = None
        limit = max(1, min(request.limit or MAX_EVENTS, MAX_EVENTS))
        scope = await self._scope(context, since)
        page = await self._sticky.page(scope, since, context.upto, limit)
        user_id = context.request_context.user_id
        visible = await visible_sticky_events(user_id, page.records, self._events, self._visibility)
        members: dict[str, Any] = {}
        rooms = await self._render(context, visible)
        if rooms:
            members["rooms"] = rooms
        reached = page.reached or context.upto
        if reached != since:
            members["next_batch"] = _PREFIX + reached.encode()
        return members, bool(rooms) or page.reached is not None

    async def _render(
        self, context: StickyExtensionContext, visible: Mapping[RoomID, Collection[VisibleEvent]]
    ) -> dict[str, Any]:
        remaining = {
            room_id: [event for event in events if event.stored.event_id not in context.shown]
            for room_id, events in visible.items()
        }
        stored = [event.stored for events in remaining.values() for event in events]
        if not stored:
            return {}
        key = context.request_context.connection.key
        viewer = self._rendering.viewer(
            Requester(UserID(key.user_id), key.device_id or None),
            await self._visibility.ignored_by(context.request_context.user_id),
        )
        await self._rendering.prepare(stored, viewer)
        rooms: dict[str, Any] = {}
        for room_id, events in remaining.items():
            if events:
                rendered = self._rendering.timeline_events(events, viewer, room_id=False)
                rooms[room_id] = {"events": orjson.Fragment(b"[%b]" % b",".join(rendered))}
        return rooms

    async def _scope(
        self, context: StickyExtensionContext, since: VectorPosition | None
    ) -> StickyScope:
        rooms, requested = context.request_context.rooms, context.requested

        def includes(room_id: RoomID) -> bool:
            own = rooms.get(room_id)
            return (
                own is not None
                and own.membership == event_types.JOIN
                and (room_id in requested.rooms or room_id in requested.matching())
            )

        new_rooms: list[RoomID] = []
        if since is not None:
            # A client that begins a connection with a token has received what is before it.
            number = context.request_context.connection.number
            new_rooms += [] if not number else filter(includes, context.new_rooms)
            for room_id in await self._sticky.rooms_among(rooms):
                own = rooms[room_id]
                may_be_new = own.stream_id > since.floor and includes(room_id)
                if may_be_new and await self._joined_after(own, since):
                    new_rooms.append(room_id)
        return StickyScope(includes, lambda: filter(includes, rooms), new_rooms)

    async def _joined_after(self, own: LocalMembership, since: VectorPosition) -> bool:
        """Return whether the user was not joined at a position, walking back by member events."""
        stored = await self._events.get_one(own.event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or membership_in(stored) != event_types.JOIN:
                return True
            if since.covers(stored.writer, stored.stream_id):
                return False
            stored = await self._states.replaced_event(stored)
        return True


def _parse(text: str) -> VectorPosition:
    if not text.startswith(_PREFIX):
        raise InvalidParam("since of sticky events must be a next_batch of this extension")
    return VectorPosition.parse(text[len(_PREFIX) :])
