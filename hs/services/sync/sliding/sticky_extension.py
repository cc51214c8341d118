"""The extension of sticky events, with a token of its own.

Rules:

- The token has two positions in the stream of events: up to where the sticky events were sent, and
  that of the response, which is later if there were more than fit. The client returns it as
  `since`, and so acknowledges what it has received; without it, all events that are still sticky
  are sent. So are they if the token is ahead of this process, as after the restore of a backup:
  rather twice than never.
- The rooms are those that the user is joined to and that a list or subscription matches, whether
  in a range or not. All events that are still sticky are sent of rooms that the user has joined
  since the response of the token, and of rooms that are new to the connection.
- Events that the response has in a timeline are left out.
- `next_batch` moves with every response, so that what follows it is little. Only events, or that
  more are to come, end the waiting.

Spec: MSC4480.
"""

from collections.abc import Callable, Collection, Mapping
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
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.sticky_events import StickyEvents, StickyScope
from hs.services.rooms.store.stored_event import membership_in
from hs.services.sync.sliding.request import StickyExtensionRequest
from hs.services.sync.sliding.requested_rooms import RequestedRooms, SlidingSyncContext
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


@attrs.frozen
class StickyToken:
    """The position of a response, and up to where the sticky events were sent by then."""

    response: VectorPosition
    reached: VectorPosition

    def encode(self) -> str:
        """Return the text form, `k<response>` or `k<response>_<reached>`."""
        text = _PREFIX + self.response.encode()
        return text if self.reached == self.response else f"{text}_{self.reached.encode()}"

    @classmethod
    def parse(cls, text: str) -> "StickyToken":
        """Parse the text form. Raises: InvalidParam."""
        if not text.startswith(_PREFIX):
            raise InvalidParam("since of sticky events must be a next_batch of this extension")
        response, _, reached = text[len(_PREFIX) :].partition("_")
        return cls(VectorPosition.parse(response), VectorPosition.parse(reached or response))


@attrs.frozen(eq=False)
class StickyExtension:
    """The renderer of the extension."""

    _sticky: StickyEvents
    _events: EventStore
    _states: StateStore
    _tails: RecentEvents
    _visibility: Visibility
    _rendering: EventRenderer

    async def make(
        self, context: StickyExtensionContext, request: StickyExtensionRequest
    ) -> tuple[dict[str, Any], bool]:
        """Return the extension, and whether it has changes. Raises: InvalidParam."""
        if not request.enabled:
            return {}, False
        since = None if request.since is None else StickyToken.parse(request.since)
        if since is not None and not context.upto.covers_all(since.response):
            since = None
        limit = max(1, min(request.limit or MAX_EVENTS, MAX_EVENTS))
        scope = await self._scope(context, since)
        after = None if since is None else since.reached
        page = await self._sticky.page(scope, after, context.upto, limit)
        user_id = context.request_context.user_id
        visible = await visible_sticky_events(user_id, page.records, self._events, self._visibility)
        members: dict[str, Any] = {}
        rooms = await self._render(context, visible)
        if rooms:
            members["rooms"] = rooms
        token = StickyToken(context.upto, page.reached or context.upto)
        if token != since:
            members["next_batch"] = token.encode()
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
        self, context: StickyExtensionContext, since: StickyToken | None
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
            new_rooms += await self._joined_since(rooms, since.response, includes)
        return StickyScope(includes, lambda: filter(includes, rooms), new_rooms)

    async def _joined_since(
        self, rooms: RoomsOf, since: VectorPosition, includes: Callable[[RoomID], bool]
    ) -> list[RoomID]:
        """Return the rooms with sticky events that the user has joined since a position."""
        if self._tails.memberships_unchanged_since(since):
            return []
        return [
            room_id
            for room_id in await self._sticky.rooms_among(rooms)
            if rooms[room_id].stream_id > since.floor
            and includes(room_id)
            and await self._joined_after(rooms[room_id], since)
        ]

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
