"""Room membership: join, knock, leave, forget, invite, kick, ban, unban."""

import attrs

from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path, query, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import MissingParam
from hs.core.ids import RoomID, ServerName, UserID, parse_server_name, parse_user_id
from hs.core.requester import Requester
from hs.services.rooms.aliases.room_aliases import RoomAliases
from hs.services.rooms.membership.member_events import own_content
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.membership.removal_with_redaction import RemovalWithRedaction
from hs.services.rooms.membership.room_joins import JoinRequest, RoomJoins
from hs.services.rooms.membership.third_party_invites import InvitedAddress, ThirdPartyInvites

_ROOM = "/_matrix/client/v3/rooms/{room_id}"


@attrs.frozen
class JoinRoomRequest:
    """POST /rooms/{roomId}/join and POST /join/{roomIdOrAlias}."""

    requester: Requester
    room: str = path(name="room_id")
    via: list[str] = query(factory=list)
    server_name: list[str] = query(factory=list)
    third_party_signed: JsonObject | None = body(default=None)
    reason: str | None = body(default=None)
    content: JsonObject = whole_body(factory=dict)


def _is_by_guest(request: JoinRoomRequest) -> bool:
    # Only this process, not the owner of the room, checks whether guests may join it.
    return request.requester.is_guest


@attrs.frozen
class KnockRoomRequest:
    """POST /knock/{roomIdOrAlias}."""

    requester: Requester
    room: str = path(name="room_id")
    via: list[str] = query(factory=list)
    server_name: list[str] = query(factory=list)
    reason: str | None = body(default=None)


@attrs.frozen
class LeaveRoomRequest:
    """POST /rooms/{roomId}/leave."""

    requester: Requester
    room_id: RoomID = path()
    reason: str | None = body(default=None)


@attrs.frozen
class ForgetRoomRequest:
    """POST /rooms/{roomId}/forget."""

    requester: Requester
    room_id: RoomID = path()


@attrs.frozen
class InviteRequest:
    """POST /rooms/{roomId}/invite, of a user or of a third-party identifier."""

    requester: Requester
    room_id: RoomID = path()
    user_id: str | None = body(default=None)
    medium: str | None = body(default=None)
    address: str | None = body(default=None)
    id_server: str | None = body(default=None)
    id_access_token: str | None = body(default=None)
    reason: str | None = body(default=None)


@attrs.frozen
class UnbanRequest:
    """POST /rooms/{roomId}/unban."""

    requester: Requester
    room_id: RoomID = path()
    user_id: UserID = body(parse=parse_user_id)
    reason: str | None = body(default=None)


@attrs.frozen
class RemoveMemberRequest:
    """POST /rooms/{roomId}/kick and ban, with the redaction of MSC4293."""

    requester: Requester
    room_id: RoomID = path()
    user_id: UserID = body(parse=parse_user_id)
    reason: str | None = body(default=None)
    redact_events: bool = body(default=False)
    redact_unstable: bool = body(default=False, name="org.matrix.msc4293.redact_events")

    @property
    def redacts(self) -> bool:
        """Whether the events of the user are redacted as well."""
        return self.redact_events or self.redact_unstable


@attrs.frozen
class JoinRoomResponse:
    """The room that the requester has joined or knocked on."""

    room_id: RoomID


@attrs.frozen
class MembershipApi:
    """Endpoints of room membership."""

    joins: RoomJoins
    membership: RoomMembership
    naming: RoomAliases
    removal: RemovalWithRedaction
    third_party_invites: ThirdPartyInvites

    @route("POST", f"{_ROOM}/join", auth=USER_OR_GUEST, work=WorkClass.OTHERS, fresh=_is_by_guest)
    @route(
        "POST",
        "/_matrix/client/v3/join/{room_id}",
        auth=USER_OR_GUEST,
        work=WorkClass.OTHERS,
        fresh=_is_by_guest,
    )
    async def join_room(self, request: JoinRoomRequest) -> JoinRoomResponse:
        """Spec: client-server API, Joining rooms."""
        room_id, via = await self.naming.find_room(
            request.room, _servers(request.via, request.server_name)
        )
        extra_content = own_content(request.content)
        join = JoinRequest(request.reason, via, request.third_party_signed, extra_content)
        await self.joins.join(request.requester, room_id, join)
        return JoinRoomResponse(room_id)

    @route(
        "POST",
        "/_matrix/client/v3/knock/{room_id}",
        auth=USER,
        rate="message",
        work=WorkClass.OTHERS,
    )
    async def knock_room(self, request: KnockRoomRequest) -> JoinRoomResponse:
        """Spec: client-server API, Knocking on rooms."""
        room_id, via = await self.naming.find_room(
            request.room, _servers(request.via, request.server_name)
        )
        await self.joins.knock(request.requester, room_id, JoinRequest(request.reason, via))
        return JoinRoomResponse(room_id)

    @route("POST", f"{_ROOM}/leave", auth=USER_OR_GUEST, work=WorkClass.OTHERS)
    async def leave_room(self, request: LeaveRoomRequest) -> Empty:
        """Spec: client-server API, Leaving rooms."""
        await self.membership.leave(request.requester, request.room_id, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/forget", auth=USER_OR_GUEST)
    async def forget_room(self, request: ForgetRoomRequest) -> Empty:
        """Spec: client-server API, Leaving rooms."""
        await self.membership.forget(request.requester, request.room_id)
        return Empty()

    @route("POST", f"{_ROOM}/invite", auth=USER, work=WorkClass.OTHERS)
    async def invite_user(self, request: InviteRequest) -> Empty:
        """Spec: client-server API, Joining rooms; Third-party invites."""
        if request.user_id is None:
            address = _address(request)
            await self.third_party_invites.invite(
                request.requester, request.room_id, address, request.reason
            )
            return Empty()
        target = parse_user_id(request.user_id)
        await self.membership.invite(request.requester, request.room_id, target, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/kick", auth=USER, rate="message")
    async def kick(self, request: RemoveMemberRequest) -> Empty:
        """Spec: client-server API, Leaving rooms."""
        kick = self.removal.kick if request.redacts else self.membership.kick
        await kick(request.requester, request.room_id, request.user_id, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/ban", auth=USER, rate="message")
    async def ban(self, request: RemoveMemberRequest) -> Empty:
        """Spec: client-server API, Banning users in a room."""
        ban = self.removal.ban if request.redacts else self.membership.ban
        await ban(request.requester, request.room_id, request.user_id, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/unban", auth=USER, rate="message")
    async def unban(self, request: UnbanRequest) -> Empty:
        """Spec: client-server API, Banning users in a room."""
        await self.membership.unban(
            request.requester, request.room_id, request.user_id, request.reason
        )
        return Empty()


def _address(request: InviteRequest) -> InvitedAddress:
    """Return the third-party identifier to invite. Raises: MissingParam."""
    if request.address is None:
        raise MissingParam("Missing user_id")
    if request.medium is None or request.id_server is None or request.id_access_token is None:
        raise MissingParam("address requires medium, id_server and id_access_token")
    return InvitedAddress(
        request.id_server, request.id_access_token, request.medium, request.address
    )


def _servers(via: list[str], server_name: list[str]) -> list[ServerName]:
    # Before Matrix 1.12, `via` was called `server_name`.
    return [parse_server_name(name) for name in dict.fromkeys((*via, *server_name))]
