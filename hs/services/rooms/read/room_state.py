"""The state of rooms for clients: current, when the user left, or at a token.

Spec: client-server API, `/state`, `/members`, `/joined_members`.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, Protocol

import attrs
import orjson

from hs.core.errors import Forbidden, NotFound
from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.time_slice import TimeSlice
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.pagination import HISTORY_START, TokenPositions
from hs.services.rooms.read.rendering import content_of, json_array
from hs.services.rooms.read.stored_members import render_members
from hs.services.rooms.read.visibility import OriginAccess, Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import MembershipHistory
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent, membership_in
from hs.storage.database import Database
from hs.storage.rooms import memberships, timelines

EVENTS_AT_ONCE: Final = 500
"""Events of a large state that are read and rendered before other tasks may run."""

_PROFILE = (("display_name", "displayname"), ("avatar_url", "avatar_url"))


@attrs.frozen
class MembersRequest:
    """A request for members with `membership`, or without `not_membership`."""

    room_id: RoomID
    at: str | None = None
    membership: str | None = None
    not_membership: str | None = None

    @property
    def is_selective(self) -> bool:
        """Whether some member events may not match."""
        return self.membership is not None or self.not_membership is not None

    def matches(self, membership: object) -> bool:
        """Return whether a membership matches; with both conditions, either suffices."""
        if self.membership is not None and membership == self.membership:
            return True
        return self.not_membership is not None and membership != self.not_membership


class ServiceUsers(Protocol):
    """The namespaces of application services."""

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Return whether a user ID is in the namespaces of an application service."""
        ...


@attrs.frozen(eq=False)
class RoomState:
    """Reads the state of rooms for clients."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _memberships: Memberships
    _membership_history: MembershipHistory
    _visibility: Visibility
    _serializer: EventSerializer
    _positions: TokenPositions
    _service_users: ServiceUsers

    async def all(self, requester: Requester, room_id: RoomID) -> bytes:
        """Return the whole state of a room, a JSON array.

        Raises: Forbidden.
        """
        access = await self._visibility.check_may_read(requester.user_id, room_id)
        return await self.all_for(requester, room_id, access)

    async def all_for(self, requester: Requester, room_id: RoomID, access: OriginAccess) -> bytes:
        """Return the whole state of a room for a user who may read it, a JSON array."""
        state = await self._visible_state(room_id, access)
        return b"[%b]" % b",".join(await self._render(requester, state.values(), None))

    async def content(
        self, requester: Requester, room_id: RoomID, key: StateKey
    ) -> Mapping[str, Any]:
        """Return the content of one state event.

        Raises: Forbidden, NotFound.
        """
        return content_of(await self._entry(requester, room_id, key))

    async def event(self, requester: Requester, room_id: RoomID, key: StateKey) -> bytes:
        """Return one state event as JSON.

        Raises: Forbidden, NotFound.
        """
        stored = await self._entry(requester, room_id, key)
        return (await self._serializer.state(requester, (stored,)))[0]

    async def members(self, requester: Requester, request: MembersRequest) -> orjson.Fragment:
        """Return member events, a JSON array.

        Raises: Forbidden, InvalidParam.
        """
        room_id = request.room_id
        access = await self._visibility.check_may_read(requester.user_id, room_id)
        if request.at is not None:
            state = await self._state_at(requester.user_id, room_id, request.at, access)
        elif access.own is None or not access.has_left:
            return json_array(await self._current_members(requester, request))
        else:
            state = await self._membership_history.state_at_end(access.own.event_id)
        return json_array(await self._render(requester, _members(state), request))

    async def _current_members(self, requester: Requester, request: MembersRequest) -> list[bytes]:
        """Render the current member events, in slices.

        Of a large room that is not in memory, they are read and rendered without caching them.
        """
        state = self._states.current_nowait(request.room_id)
        ids = () if state is None else _members(state)
        if ids and (len(ids) <= EVENTS_AT_ONCE or self._serializer.has_rendered(ids)):
            return await self._render(requester, ids, request)
        members = await self._database.read(memberships.list_member_events, request.room_id)
        # Events next to each other are stored next to each other.
        remaining = iter(
            sorted(
                stream_id
                for stream_id, membership in members
                if not request.is_selective or request.matches(membership or event_types.LEAVE)
            )
        )
        rendered: list[bytes] = []
        now_ms = self._serializer.now_ms()
        time_slice = TimeSlice()
        while stream_ids := list(islice(remaining, EVENTS_AT_ONCE)):
            part, others = await self._database.read(
                render_members, request.room_id, stream_ids, now_ms
            )
            if others:
                part += await self._serializer.state_by_id(requester, others)
            rendered.append(b",".join(part))
            await time_slice.yield_if_over()
        return rendered

    async def _render(
        self, requester: Requester, event_ids: Iterable[EventID], request: MembersRequest | None
    ) -> list[bytes]:
        """Render state events, those that match a request, in slices.

        An event never changes except by a redaction, so other tasks may run between the slices.
        """
        rendered: list[bytes] = []
        time_slice = TimeSlice()
        remaining = iter(event_ids)
        while ids := list(islice(remaining, EVENTS_AT_ONCE)):
            if request is not None and request.is_selective:
                events = (await self._events.scan(ids)).items()
                ids = [key for key, stored in events if request.matches(membership_in(stored))]
            part = await self._serializer.state_by_id(requester, ids)
            if part:
                rendered.append(b",".join(part))
            await time_slice.yield_if_over()
        return rendered

    async def joined_members(
        self, requester: Requester, room_id: RoomID
    ) -> dict[str, dict[str, str | None]]:
        """Return the profiles of a room's joined members.

        Raises: Forbidden, unless the requester is joined, or is an application service that has a
            joined user.
        """
        if not await self._has_service_users(requester.appservice_id, room_id):
            await self._visibility.check_joined(requester.user_id, room_id)
        joined = list(await self._memberships.joined(room_id))
        state = await self._states.current(room_id)
        ids = {user_id: state.get((event_types.MEMBER, user_id)) for user_id in joined}
        profiles: dict[str, dict[str, str | None]] = {}
        time_slice = TimeSlice()
        remaining = iter([event_id for event_id in ids.values() if event_id is not None])
        while event_ids := list(islice(remaining, EVENTS_AT_ONCE)):
            for stored in (await self._events.scan(event_ids)).values():
                profiles[stored.event.state_key or ""] = _profile(stored)
            await time_slice.yield_if_over()
        return profiles

    async def _has_service_users(self, service_id: str | None, room_id: RoomID) -> bool:
        if service_id is None:
            return False
        joined = await self._memberships.joined(room_id)
        return any(self._service_users.owns(service_id, user_id) for user_id in joined)

    async def _entry(self, requester: Requester, room_id: RoomID, key: StateKey) -> StoredEvent:
        access = await self._visibility.check_may_read(requester.user_id, room_id)
        if access.own is None or not access.has_left:
            entries = await self._states.current_of_keys(room_id, (key,))
        else:
            entries = await self._membership_history.state_at_end(access.own.event_id)
        stored = None if key not in entries else await self._events.get_one(entries[key])
        if stored is None:
            raise NotFound("The room has no state event with this type and state key")
        return stored

    async def _visible_state(
        self, room_id: RoomID, access: OriginAccess
    ) -> Mapping[StateKey, EventID]:
        if access.own is None or not access.has_left:
            return await self._states.current(room_id)
        return await self._membership_history.state_at_end(access.own.event_id)

    async def _state_at(
        self, user_id: UserID, room_id: RoomID, token: str, access: OriginAccess
    ) -> Mapping[StateKey, EventID]:
        position = await self._positions.parse(room_id, token)
        newest = await self._database.read(timelines.newest, room_id, HISTORY_START, position, 1)
        stored = await self._events.get_one(EventID(newest[0].event_id)) if newest else None
        if stored is None:
            return {}
        if access.own is not None and access.has_left and (access.joined_until < stored.stream_id):
            return await self._membership_history.state_at_end(access.own.event_id)
        if not access.joined_until and not await self._visibility.filter_one(user_id, stored):
            raise Forbidden("You were not in the room at that time")
        return await self._state_after(stored)

    async def _state_after(self, stored: StoredEvent) -> Mapping[StateKey, EventID]:
        state = await self._states.at_snapshot(stored.snapshot_id or 0)
        if stored.event.state_key is None:
            return state
        return state.set((stored.event.type, stored.event.state_key), stored.event_id)


def _members(state: Mapping[StateKey, EventID]) -> list[EventID]:
    return [event_id for key, event_id in state.items() if key[0] == event_types.MEMBER]


def _profile(stored: StoredEvent) -> dict[str, str | None]:
    # Some clients require both fields, and refuse the whole answer without them. Null means none.
    content = content_of(stored)
    return {
        name: value if isinstance(value := content.get(source), str) else None
        for name, source in _PROFILE
    }
