"""Invites of local users by other servers, and third-party invites that they have claimed."""

from typing import Any

import attrs

from hs.apis.web.auth import FEDERATION
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import body, origin, path, whole_body
from hs.apis.web.route import always, route
from hs.core.ids import EventID, RoomID, ServerName
from hs.services.federation.joining.incoming_invites import IncomingInvites, InviteRequest
from hs.services.federation.joining.third_party_exchange import ThirdPartyExchange


@attrs.frozen
class Invite:
    """PUT /v2/invite."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    event_id: str = path()
    room_version: str = body()
    event: dict[str, Any] = body()
    invite_room_state: list[Any] = body(factory=list)


@attrs.frozen
class OldInvite:
    """PUT /v1/invite: the event, with the state of the room in `unsigned`."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    event_id: str = path()
    event: dict[str, Any] = whole_body()


@attrs.frozen
class ExchangeInvite:
    """PUT /exchange_third_party_invite: the invite without its place in the room."""

    origin: ServerName = origin()
    room_id: RoomID = path()
    event: dict[str, Any] = whole_body()


@attrs.frozen
class InvitesApi:
    """The endpoints of invites."""

    invites: IncomingInvites
    third_party: ThirdPartyExchange

    @route(
        "PUT",
        "/_matrix/federation/v2/invite/{room_id}/{event_id}",
        auth=FEDERATION,
        fresh=always,
    )
    async def invite(self, request: Invite) -> dict[str, Any]:
        """Spec: server-server API, Inviting to a room."""
        return await self._receive(request, request.room_version, request.invite_room_state)

    @route(
        "PUT",
        "/_matrix/federation/v1/invite/{room_id}/{event_id}",
        auth=FEDERATION,
        fresh=always,
    )
    async def invite_v1(self, request: OldInvite) -> list[Any]:
        """Spec: server-server API, Inviting to a room."""
        unsigned = request.event.get("unsigned")
        state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        version = "1"  # the form of events is the same in version 2
        state = state if isinstance(state, list) else []
        return [200, await self._receive(request, version, state)]

    @route(
        "PUT",
        "/_matrix/federation/v1/exchange_third_party_invite/{room_id}",
        auth=FEDERATION,
        work=WorkClass.PEERS,
        fresh=always,
    )
    async def exchange_third_party_invite(self, request: ExchangeInvite) -> Empty:
        """Spec: server-server API, Third-party invites."""
        await self.third_party.exchange(request.origin, request.room_id, request.event)
        return Empty()

    async def _receive(
        self, request: Invite | OldInvite, room_version: str, room_state: list[Any]
    ) -> dict[str, Any]:
        event_id = EventID(request.event_id)
        invite = InviteRequest(request.room_id, event_id, room_version, request.event, room_state)
        signed = await self.invites.receive(request.origin, invite)
        return {"event": {**request.event, "signatures": signed.pdu["signatures"]}}
