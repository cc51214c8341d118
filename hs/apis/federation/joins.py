"""Joins, knocks and leaves of users of other servers."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import orjson

from hs.apis.web.auth import FEDERATION
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Response
from hs.apis.web.request import origin, path, query, whole_body
from hs.apis.web.route import always, route
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.services.federation.joining.join_responses import JoinResponses
from hs.services.federation.joining.membership_handshakes import MembershipHandshakes
from hs.services.federation.joining.stripped_states import StrippedStates
from hs.services.rooms.append.event_templates import BuiltEvent
from hs.services.rooms.store.stored_event import StoredEvent

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"
_JSON = {"content-type": "application/json"}


@attrs.frozen
class MakeMembership:
    """GET /make_join, /make_knock; `ver` are the room versions that the origin supports."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    user_id: UserID = path()
    ver: list[str] = query(factory=list)


@attrs.frozen
class MakeLeave:
    """GET /make_leave."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    user_id: UserID = path()


@attrs.frozen
class SendMembership:
    """PUT /send_join, /send_knock, /send_leave: a signed event."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    event_id: str = path()
    pdu: dict[str, Any] = whole_body()


@attrs.frozen
class MembershipHandshakesApi:
    """The endpoints of joins, knocks and leaves."""

    handshakes: MembershipHandshakes
    responses: JoinResponses
    stripped: StrippedStates

    @route(
        "GET",
        f"{_V1}/make_join/{{room_id}}/{{user_id}}",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
        fresh=always,
    )
    async def make_join(self, request: MakeMembership) -> bytes:
        """Spec: server-server API, Joining Rooms."""
        return self._template(await self._make(event_types.JOIN, request))

    @route(
        "GET",
        f"{_V1}/make_knock/{{room_id}}/{{user_id}}",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
        fresh=always,
    )
    async def make_knock(self, request: MakeMembership) -> bytes:
        """Spec: server-server API, Knocking upon a room."""
        return self._template(await self._make(event_types.KNOCK, request))

    @route(
        "GET",
        f"{_V1}/make_leave/{{room_id}}/{{user_id}}",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
        fresh=always,
    )
    async def make_leave(self, request: MakeLeave) -> bytes:
        """Spec: server-server API, Leaving Rooms."""
        return self._template(
            await self.handshakes.make(
                request.origin, event_types.LEAVE, request.room_id, request.user_id
            )
        )

    @route(
        "PUT",
        f"{_V2}/send_join/{{room_id}}/{{event_id}}",
        auth=FEDERATION,
        work=WorkClass.PEERS,
        fresh=always,
    )
    async def send_join(self, request: SendMembership) -> Response:
        """Spec: server-server API, Joining Rooms."""
        room = await self.responses.room_before(await self._send(event_types.JOIN, request))
        return Response(200, _JSON, self.responses.encode(room))

    @route(
        "PUT",
        f"{_V1}/send_join/{{room_id}}/{{event_id}}",
        auth=FEDERATION,
        work=WorkClass.PEERS,
        fresh=always,
    )
    async def send_join_v1(self, request: SendMembership) -> Response:
        """Spec: server-server API, Joining Rooms."""
        room = await self.responses.room_before(await self._send(event_types.JOIN, request))
        return Response(200, _JSON, _in_list(self.responses.encode(room)))

    @route(
        "PUT",
        f"{_V1}/send_knock/{{room_id}}/{{event_id}}",
        auth=FEDERATION,
        work=WorkClass.PEERS,
        fresh=always,
    )
    async def send_knock(self, request: SendMembership) -> dict[str, Any]:
        """Spec: server-server API, Knocking upon a room."""
        await self._send(event_types.KNOCK, request)
        return {"knock_room_state": await self.stripped.of_room(request.room_id)}

    @route(
        "PUT",
        f"{_V2}/send_leave/{{room_id}}/{{event_id}}",
        auth=FEDERATION,
        work=WorkClass.PEERS,
        fresh=always,
    )
    async def send_leave(self, request: SendMembership) -> dict[str, Any]:
        """Spec: server-server API, Leaving Rooms."""
        await self._send(event_types.LEAVE, request)
        return {}

    @route(
        "PUT",
        f"{_V1}/send_leave/{{room_id}}/{{event_id}}",
        auth=FEDERATION,
        work=WorkClass.PEERS,
        fresh=always,
    )
    async def send_leave_v1(self, request: SendMembership) -> list[Any]:
        """Spec: server-server API, Leaving Rooms."""
        await self._send(event_types.LEAVE, request)
        return [200, {}]

    def _template(self, built: BuiltEvent) -> bytes:
        # The specification requires the name of this server, which the joining one replaces.
        event = {**orjson.loads(built.pdu), "origin": self.handshakes.signer.server_name}
        return orjson.dumps({"room_version": built.room_version, "event": event})

    async def _make(self, membership: str, request: MakeMembership) -> BuiltEvent:
        return await self.handshakes.make(
            request.origin, membership, request.room_id, request.user_id, request.ver or ["1"]
        )

    async def _send(self, membership: str, request: SendMembership) -> StoredEvent:
        return await self.handshakes.send(
            request.origin, membership, request.room_id, EventID(request.event_id), request.pdu
        )


async def _in_list(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"[200,"
    async for part in parts:
        yield part
    yield b"]"
