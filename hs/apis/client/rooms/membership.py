"""Joining, leaving, inviting, kicking, banning, knocking and forgetting."""

import attrs

from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path, query, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import MissingParam
from hs.core.ids import RoomID, ServerName, UserID, parse_server_name, parse_user_id
from hs.core.requester import Requester
from hs.services.rooms.aliases.room_aliases import RoomNaming
from hs.services.rooms.membership.membership import JoinRequest, RoomMembership, own_content
from hs.services.rooms.membership.removal_with_redaction import Removal
from hs.services.rooms.membership.third_party_invites import InvitedAddress, ThirdPartyInvites

_ROOM = "/_matrix/client/v3/rooms/{room_id}"


@attrs.frozen
class Join:
    """Spec: client-server API, POST /rooms/{roomId}/join and POST /join/{roomIdOrAlias}."""

    requester: Requester
    room: str = path(name="room_id")
    via: list[str] = query(factory=list)
    server_name: list[str] = query(factory=list)
    third_party_signed: JsonObject | None = body(default=None)
    reason: str | None = body(default=None)
    content: JsonObject = whole_body(factory=dict)


@attrs.frozen
class Knock:
    """Spec: client-server API, POST /knock/{roomIdOrAlias}."""

    requester: Requester
    room: str = path(name="room_id")
    via: list[str] = query(factory=list)
    server_name: list[str] = query(factory=list)
    reason: str | None = body(default=None)


@attrs.frozen
class Leave:
    """Spec: client-server API, POST /rooms/{roomId}/leave."""

    requester: Requester
    room_id: RoomID = path()
    reason: str | None = body(default=None)


@attrs.frozen
class Forget:
    """Spec: client-server API, POST /rooms/{roomId}/forget."""

    requester: Requester
    room_id: RoomID = path()


@attrs.frozen
class Invite:
    """Spec: client-server API, POST /rooms/{roomId}/invite, in both of its forms."""

    requester: Requester
    room_id: RoomID = path()
    user_id: str | None = body(default=None)
    medium: str | None = body(default=None)
    address: str | None = body(default=None)
    id_server: str | None = body(default=None)
    id_access_token: str | None = body(default=None)
    reason: str | None = body(default=None)


@attrs.frozen
class AboutMember:
    """Spec: client-server API, POST /rooms/{roomId}/kick, ban and unban."""

    requester: Requester
    room_id: RoomID = path()
    user_id: UserID = body(parse=parse_user_id)
    reason: str | None = body(default=None)


@attrs.frozen
class Remove:
    """The same for kick and ban, and whether what the user sent goes as well (MSC4293)."""

    requester: Requester
    room_id: RoomID = path()
    user_id: UserID = body(parse=parse_user_id)
    reason: str | None = body(default=None)
    redact_events: bool = body(default=False)
    redact_unstable: bool = body(default=False, name="org.matrix.msc4293.redact_events")

    @property
    def redacts(self) -> bool:
        """Tell whether what the user sent goes as well."""
        return self.redact_events or self.redact_unstable


@attrs.frozen
class InRoom:
    """The room one is in now, or has knocked on."""

    room_id: RoomID


@attrs.frozen
class MembershipApi:
    """The endpoints of memberships."""

    membership: RoomMembership
    naming: RoomNaming
    removal: Removal
    offers: ThirdPartyInvites

    @route("POST", f"{_ROOM}/join", auth=USER_OR_GUEST)
    @route("POST", "/_matrix/client/v3/join/{room_id}", auth=USER_OR_GUEST)
    async def join(self, request: Join) -> InRoom:
        """Join a room, named by its ID or an alias."""
        room_id, via = await self.naming.find_room(
            request.room, _servers(request.via, request.server_name)
        )
        more = own_content(request.content)
        asked = JoinRequest(request.reason, via, request.third_party_signed, more)
        return InRoom(await self.membership.join(request.requester, room_id, asked))

    @route("POST", "/_matrix/client/v3/knock/{room_id}", auth=USER)
    async def knock(self, request: Knock) -> InRoom:
        """Ask to be let in."""
        room_id, via = await self.naming.find_room(
            request.room, _servers(request.via, request.server_name)
        )
        asked = JoinRequest(request.reason, via)
        return InRoom(await self.membership.knock(request.requester, room_id, asked))

    @route("POST", f"{_ROOM}/leave", auth=USER_OR_GUEST)
    async def leave(self, request: Leave) -> Empty:
        """Leave a room or reject an invite."""
        await self.membership.leave(request.requester, request.room_id, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/forget", auth=USER_OR_GUEST)
    async def forget(self, request: Forget) -> Empty:
        """Forget a room that one has left."""
        await self.membership.forget(request.requester, request.room_id)
        return Empty()

    @route("POST", f"{_ROOM}/invite", auth=USER)
    async def invite(self, request: Invite) -> Empty:
        """Invite a user."""
        if request.user_id is None:
            asked = _address(request)
            await self.offers.invite(request.requester, request.room_id, asked, request.reason)
            return Empty()
        target = parse_user_id(request.user_id)
        await self.membership.invite(request.requester, request.room_id, target, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/kick", auth=USER)
    async def kick(self, request: Remove) -> Empty:
        """Make a user leave."""
        kick = self.removal.kick if request.redacts else self.membership.kick
        await kick(request.requester, request.room_id, request.user_id, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/ban", auth=USER)
    async def ban(self, request: Remove) -> Empty:
        """Ban a user."""
        ban = self.removal.ban if request.redacts else self.membership.ban
        await ban(request.requester, request.room_id, request.user_id, request.reason)
        return Empty()

    @route("POST", f"{_ROOM}/unban", auth=USER)
    async def unban(self, request: AboutMember) -> Empty:
        """Lift a ban."""
        await self.membership.unban(
            request.requester, request.room_id, request.user_id, request.reason
        )
        return Empty()


def _address(request: Invite) -> InvitedAddress:
    """Read whom to invite by address. Raises: MissingParam."""
    if request.address is None:
        raise MissingParam("user_id is missing")
    if request.medium is None or request.id_server is None or request.id_access_token is None:
        raise MissingParam("medium, id_server and id_access_token go with an address")
    return InvitedAddress(
        request.id_server, request.id_access_token, request.medium, request.address
    )


def _servers(via: list[str], server_name: list[str]) -> list[ServerName]:
    # `server_name` is what `via` was called before Matrix 1.12.
    return [parse_server_name(one) for one in dict.fromkeys((*via, *server_name))]
