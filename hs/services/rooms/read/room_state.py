"""The state of rooms as clients ask for it: now, when they left, or at a token.

Spec: client-server API, `/state`, `/members`, `/joined_members`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import orjson

from hs.core.errors import Forbidden, NotFound
from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.pagination import NOWHERE, Places
from hs.services.rooms.read.rendering import content_of, json_array
from hs.services.rooms.read.visibility import Standing, Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import timelines

_PROFILE = (("display_name", "displayname"), ("avatar_url", "avatar_url"))


@attrs.frozen
class MembersAsk:
    """Which members are asked for: those with one membership, or without the other."""

    room_id: RoomID
    at: str | None = None
    membership: str | None = None
    not_membership: str | None = None

    def wants(self, membership: object) -> bool:
        """Tell whether a member with this membership is asked for; both conditions mean `or`."""
        if self.membership is None and self.not_membership is None:
            return True
        if self.membership is not None and membership == self.membership:
            return True
        return self.not_membership is not None and membership != self.not_membership


class ServiceUsers(Protocol):
    """Whose users are whose application services'."""

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Tell whether a user ID is in the namespaces of a service."""
        ...


@attrs.frozen(eq=False)
class RoomState:
    """Reads rooms' state for clients."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _memberships: Memberships
    _visibility: Visibility
    _showing: Showing
    _places: Places
    _service_users: ServiceUsers

    async def all(self, requester: Requester, room_id: RoomID) -> bytes:
        """Give all of a room's state, a JSON array.

        Raises: Forbidden.
        """
        standing = await self._visibility.check_may_read(requester.user_id, room_id)
        return await self.all_for(requester, room_id, standing)

    async def all_for(self, requester: Requester, room_id: RoomID, standing: Standing) -> bytes:
        """Give all of a room's state to somebody who may read it, a JSON array."""
        state = await self._seen_by(room_id, standing)
        events = await self._events.get(state.values())
        rendered = await self._showing.state(requester, list(events.values()))
        return b"[%b]" % b",".join(rendered)

    async def content(
        self, requester: Requester, room_id: RoomID, key: StateKey
    ) -> Mapping[str, Any]:
        """Give the content of one entry.

        Raises: Forbidden, NotFound.
        """
        return content_of(await self._entry(requester, room_id, key))

    async def event(self, requester: Requester, room_id: RoomID, key: StateKey) -> bytes:
        """Give one entry as an event.

        Raises: Forbidden, NotFound.
        """
        stored = await self._entry(requester, room_id, key)
        return (await self._showing.state(requester, (stored,)))[0]

    async def members(self, requester: Requester, ask: MembersAsk) -> orjson.Fragment:
        """Give member events, a JSON array.

        Raises: Forbidden, InvalidParam.
        """
        room_id = ask.room_id
        standing = await self._visibility.check_may_read(requester.user_id, room_id)
        if ask.at is None:
            state = await self._seen_by(room_id, standing)
        else:
            state = await self._at(requester.user_id, room_id, ask.at, standing)
        ids = [event_id for key, event_id in state.items() if key[0] == event_types.MEMBER]
        events = await self._events.get(ids)
        wanted = [one for one in events.values() if ask.wants(one.event.content.get("membership"))]
        return json_array(await self._showing.state(requester, wanted))

    async def joined_members(
        self, requester: Requester, room_id: RoomID
    ) -> dict[str, dict[str, str]]:
        """Give the profiles of a room's joined members.

        Raises: Forbidden, unless the requester is one of them, or an application service that
            has a user among them.
        """
        if not await self._has_service_users(requester.appservice_id, room_id):
            await self._visibility.check_joined(requester.user_id, room_id)
        joined = list(await self._memberships.joined(room_id))
        state = await self._states.current(room_id)
        ids = {user_id: state.get((event_types.MEMBER, user_id)) for user_id in joined}
        events = await self._events.get(one for one in ids.values() if one is not None)
        profiles: dict[str, dict[str, str]] = {}
        for user_id, event_id in ids.items():
            stored = None if event_id is None else events.get(event_id)
            if stored is not None:
                profiles[user_id] = _profile(stored)
        return profiles

    async def _has_service_users(self, service_id: str | None, room_id: RoomID) -> bool:
        if service_id is None:
            return False
        joined = await self._memberships.joined(room_id)
        return any(self._service_users.owns(service_id, user_id) for user_id in joined)

    async def _entry(self, requester: Requester, room_id: RoomID, key: StateKey) -> StoredEvent:
        standing = await self._visibility.check_may_read(requester.user_id, room_id)
        if standing.own is None or not standing.is_over:
            found = await self._states.current_of_keys(room_id, (key,))
        else:
            found = await self._visibility.stays.state_at_end(standing.own.event_id)
        stored = None if key not in found else await self._events.get_one(found[key])
        if stored is None:
            raise NotFound("The room has no state with that type and key")
        return stored

    async def _seen_by(self, room_id: RoomID, standing: Standing) -> Mapping[StateKey, EventID]:
        if standing.own is None or not standing.is_over:
            return await self._states.current(room_id)
        return await self._visibility.stays.state_at_end(standing.own.event_id)

    async def _at(
        self, user_id: UserID, room_id: RoomID, token: str, standing: Standing
    ) -> Mapping[StateKey, EventID]:
        place = await self._places.parse(room_id, token)
        placed = await self._database.read(timelines.newest, room_id, NOWHERE, place, 1)
        stored = await self._events.get_one(EventID(placed[0].event_id)) if placed else None
        if stored is None:
            return {}
        if (
            standing.own is not None
            and standing.is_over
            and (standing.joined_until < stored.stream_id)
        ):
            return await self._visibility.stays.state_at_end(standing.own.event_id)
        if not standing.joined_until and not await self._visibility.may_see_one(user_id, stored):
            raise Forbidden("You were not in the room at that time")
        return await self._behind(stored)

    async def _behind(self, stored: StoredEvent) -> Mapping[StateKey, EventID]:
        state = await self._states.at_snapshot(stored.snapshot_id or 0)
        if stored.event.state_key is None:
            return state
        return state.set((stored.event.type, stored.event.state_key), stored.event_id)


def _profile(stored: StoredEvent) -> dict[str, str]:
    # What is missing is left out: the specification knows no null here.
    content = content_of(stored)
    return {
        name: value for name, source in _PROFILE if isinstance(value := content.get(source), str)
    }
