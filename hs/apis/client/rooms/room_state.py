"""Rooms' state and members."""

from typing import Any, Literal

import attrs
import orjson

from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.request import path, query
from hs.apis.web.route import always, route
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.read.room_state import MembersAsk, RoomState
from hs.services.rooms.store.memberships import Memberships

Membership = Literal["join", "invite", "knock", "leave", "ban"]


@attrs.frozen
class OfRoom:
    """Ask for something of one room."""

    requester: Requester
    room_id: RoomID = path()


@attrs.frozen
class GetEntry:
    """Ask for one entry of a room's state."""

    requester: Requester
    room_id: RoomID = path()
    event_type: str = path()
    state_key: str = path(default="")
    form: Literal["content", "event"] = query(name="format", default="content")


@attrs.frozen
class GetMembers:
    """Ask for member events."""

    requester: Requester
    room_id: RoomID = path()
    at: str | None = query(default=None)
    membership: Membership | None = query(default=None)
    not_membership: Membership | None = query(default=None)


@attrs.frozen
class GetJoinedRooms:
    """Ask for one's own rooms."""

    requester: Requester


@attrs.frozen
class Chunk:
    """A list of events."""

    chunk: orjson.Fragment


@attrs.frozen
class JoinedMembers:
    """Profiles by user."""

    joined: dict[str, dict[str, str]]


@attrs.frozen
class JoinedRooms:
    """The rooms that a user is joined to."""

    joined_rooms: list[RoomID]


@attrs.frozen
class RoomStateApi:
    """Reading rooms' state."""

    state: RoomState
    memberships: Memberships

    @route("GET", "/_matrix/client/v3/rooms/{room_id}/state", auth=USER_OR_GUEST, fresh=always)
    async def all(self, request: OfRoom) -> bytes:
        """Spec: client-server API, GET /rooms/{roomId}/state."""
        return await self.state.all(request.requester, request.room_id)

    @route(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
        auth=USER_OR_GUEST,
        also=["/_matrix/client/v3/rooms/{room_id}/state/{event_type}"],
        fresh=always,
    )
    async def entry(self, request: GetEntry) -> Any:
        """Spec: client-server API, GET /rooms/{roomId}/state/{eventType}/{stateKey}."""
        key = (request.event_type, request.state_key)
        if request.form == "event":
            return await self.state.event(request.requester, request.room_id, key)
        return await self.state.content(request.requester, request.room_id, key)

    @route("GET", "/_matrix/client/v3/rooms/{room_id}/members", auth=USER_OR_GUEST, fresh=always)
    async def members(self, request: GetMembers) -> Chunk:
        """Spec: client-server API, GET /rooms/{roomId}/members."""
        ask = MembersAsk(
            request.room_id, request.at or None, request.membership, request.not_membership
        )
        return Chunk(await self.state.members(request.requester, ask))

    @route("GET", "/_matrix/client/v3/rooms/{room_id}/joined_members", auth=USER, fresh=always)
    async def joined_members(self, request: OfRoom) -> JoinedMembers:
        """Spec: client-server API, GET /rooms/{roomId}/joined_members."""
        return JoinedMembers(await self.state.joined_members(request.requester, request.room_id))

    @route("GET", "/_matrix/client/v3/joined_rooms", auth=USER, fresh=always)
    async def joined_rooms(self, request: GetJoinedRooms) -> JoinedRooms:
        """Spec: client-server API, GET /joined_rooms."""
        return JoinedRooms(await self.memberships.joined_rooms(request.requester.user_id))
