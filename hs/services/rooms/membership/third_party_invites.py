"""Invites to e-mail addresses and phone numbers.

If an identity server knows the address, its user is invited directly. Otherwise a third-party
invite is stored, and replaced by a normal invite when somebody binds the address.

Spec: client-server API, Third-party invites.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from hs.core.auth.third_party import keys_that_signed
from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, InvalidParam, MatrixError, NotFound, RemoteFault
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import RoomID, UserID, parse_room_id, parse_user_id, server_of
from hs.core.requester import Requester
from hs.core.threepids import canonical_email
from hs.lib.limiter import RateLimiter
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.accounts.limits.rate_limits import enforce_limit
from hs.services.accounts.threepids.identity_servers import IdentityServers, StoredThreepidInvite
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.membership.member_events import third_party_event
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.store.auth_state import AuthState, AuthStateReader

MAX_BOUND_INVITES: Final = 50

# What an identity server may mention about the room in its e-mail: the field of the request, the
# event type and the property of its content.
_ROOM_FIELDS: Final = (
    ("room_alias", event_types.CANONICAL_ALIAS, "alias"),
    ("room_avatar_url", event_types.AVATAR, "url"),
    ("room_join_rules", event_types.JOIN_RULES, "join_rule"),
    ("room_name", event_types.NAME, "name"),
    ("room_type", event_types.CREATE, "type"),
)
_ACCEPTED_MEMBERSHIPS: Final = frozenset((event_types.JOIN, event_types.INVITE, event_types.BAN))

log = logging.getLogger(__name__)


@attrs.frozen
class InvitedAddress:
    """The address to invite, and the identity server with the user's access token."""

    id_server: str
    id_access_token: str
    medium: str
    address: str


@attrs.frozen(eq=False, kw_only=True)
class ThirdPartyInvites:
    """Sends third-party invites, and turns them into invites of users."""

    servers: IdentityServers
    appender: RoomAppender
    auth_states: AuthStateReader
    membership: RoomMembership
    limiter: RateLimiter[str]
    looks_up: bool

    async def invite(
        self,
        requester: Requester,
        room_id: RoomID,
        address: InvitedAddress,
        reason: str | None = None,
    ) -> None:
        """Invite the user with an address, or send a third-party invite.

        Raises: MatrixError, Forbidden, RemoteFault.
        """
        user_id = await self.user_of(requester, address)
        if user_id is not None:
            await self.membership.invite(requester, room_id, user_id, reason)
        else:
            await self.offer(requester, room_id, address)

    async def user_of(self, requester: Requester, address: InvitedAddress) -> UserID | None:
        """Look up the user with an address; counts as an invite. Raises: as `invite`."""
        check_may_act(requester)
        self.membership.policy.check_may_invite(requester)
        if not self.looks_up:
            raise Forbidden("Inviting by e-mail address or phone number is disabled on this server")
        if not requester.is_rate_limit_exempt:
            enforce_limit(self.limiter, requester.user_id)
        address = _canonical_address(address)
        return await self.servers.lookup(
            address.id_server, address.id_access_token, address.medium, address.address
        )

    async def offer(self, requester: Requester, room_id: RoomID, address: InvitedAddress) -> None:
        """Send a third-party invite for an address that belongs to no user. Raises: as `invite`."""
        user_id = requester.user_id
        room = await self._read_room(user_id, room_id)
        stored = await self.servers.store_invite(
            address.id_server,
            address.id_access_token,
            self._invite_details(room, user_id, _canonical_address(address)),
        )
        content = _third_party_invite_content(stored)
        draft = Draft(event_types.THIRD_PARTY_INVITE, user_id, content, stored.token)
        try:
            await self.appender.append(room_id, [draft])
        except NotFound as error:
            raise Forbidden("You are not in this room") from error

    async def accept_bound(self, user_id: UserID, invites: Sequence[Mapping[str, Any]]) -> None:
        """Invite a user according to third-party invites for an address that they have just bound.

        All invites are tried; then the last error is raised, if there was any.
        Raises: InvalidParam, Forbidden, RemoteFault.
        """
        fault: MatrixError | RemoteFault | None = None
        if not self.membership.memberships.is_local(user_id):
            return
        for invite in invites[:MAX_BOUND_INVITES]:
            signed = invite.get("signed")
            try:
                room_id = parse_room_id(invite.get("room_id"))
                if not isinstance(signed, dict) or signed.get("mxid") != user_id:
                    raise InvalidParam("signed.mxid must be the bound user")
                await self._accept(user_id, room_id, invite.get("sender"), signed)
            except (MatrixError, RemoteFault) as error:
                log.info("could not accept a third-party invite of user %s: %s", user_id, error)
                fault = error
        if fault is not None:
            raise fault

    async def _accept(
        self, user_id: UserID, room_id: RoomID, inviter: object, signed: JsonObject
    ) -> None:
        third_party_invite = await self._third_party_invite(user_id, room_id, signed)
        memberships = self.membership.memberships
        is_local = memberships.is_local
        if third_party_invite is None or not (await memberships.present(room_id)).local:
            # The server of the inviter knows the room, and sends the invite back here.
            event = third_party_event(room_id, parse_user_id(inviter), user_id, signed)
            if is_local(event["sender"]):
                raise Forbidden("The room has no such third-party invite")
            server = server_of(event["sender"])
            await self.membership.remote.exchange_third_party_invite(server, room_id, event)
            return
        # The memory of this process may be behind a user who has left through another process.
        own = await memberships.look_again(room_id, user_id)
        if own is not None and own.membership in _ACCEPTED_MEMBERSHIPS:
            return
        await self._check_key(third_party_invite, signed)
        draft = await self.membership.events.accept_third_party_invite(room_id, user_id, signed)
        if is_local(draft.sender):
            await self.appender.append(room_id, [draft])
        else:
            await self.membership.remote.invite_for(room_id, draft)

    async def exchange(self, room_id: RoomID, user_id: UserID, signed: JsonObject) -> None:
        """Invite a user of another server, who has claimed a third-party invite of a local user.

        Raises: InvalidParam, Forbidden, RemoteFault.
        """
        third_party_invite = await self._third_party_invite(user_id, room_id, signed)
        if third_party_invite is None:
            raise Forbidden("The room has no such third-party invite")
        if not self.membership.memberships.is_local(third_party_invite.sender):
            raise Forbidden("The third-party invite was sent by another server")
        await self._check_key(third_party_invite, signed)
        draft = await self.membership.events.accept_third_party_invite(room_id, user_id, signed)
        if self.membership.memberships.is_local(user_id):
            await self.appender.append(room_id, [draft])
        else:
            await self.membership.remote.invite(room_id, draft)

    async def _third_party_invite(
        self, user_id: UserID, room_id: RoomID, signed: JsonObject
    ) -> Event | None:
        token = signed.get("token")
        if not isinstance(token, str) or "\0" in token:
            raise InvalidParam("signed.token must be a string")
        key = (event_types.THIRD_PARTY_INVITE, token)
        room = await self.auth_states.read(room_id, members=(user_id,), more=(key,))
        return None if room is None else room.events.get(key)

    async def _check_key(self, third_party_invite: Event, signed: JsonObject) -> None:
        urls = keys_that_signed(third_party_invite.content, signed)
        if not urls or not await self.servers.is_any_valid(urls):
            raise Forbidden("The third-party invite is not signed by a valid key")

    async def _read_room(self, user_id: UserID, room_id: RoomID) -> AuthState:
        """Check that the user may invite, before an e-mail is sent. Raises: Forbidden."""
        more = [(event_type, "") for _, event_type, _ in _ROOM_FIELDS]
        room = await self.auth_states.read(room_id, members=(user_id,), more=more)
        if room is None or room.membership(user_id) != event_types.JOIN:
            raise Forbidden("You are not in this room")
        if room.power.of_user(user_id) < room.power.invite:
            raise Forbidden(f"Inviting requires power level {room.power.invite}")
        return room

    @staticmethod
    def _invite_details(room: AuthState, user_id: UserID, address: InvitedAddress) -> JsonObject:
        details = {name: room.text(kind, field) for name, kind, field in _ROOM_FIELDS}
        member = room.events[(event_types.MEMBER, user_id)].content
        details["sender_display_name"] = member.get("displayname")
        details["sender_avatar_url"] = member.get("avatar_url")
        return {
            **{name: value for name, value in details.items() if isinstance(value, str)},
            "medium": address.medium,
            "address": address.address,
            "room_id": room.room_id,
            "sender": user_id,
        }


def _canonical_address(address: InvitedAddress) -> InvitedAddress:
    if address.medium == "email":
        return attrs.evolve(address, address=canonical_email(address.address))
    return address


def _third_party_invite_content(stored: StoredThreepidInvite) -> JsonObject:
    keys = [{"public_key": key, "key_validity_url": url} for key, url in stored.public_keys]
    # Spec: m.room.third_party_invite; the first key is repeated at the top level for old servers.
    return {"display_name": stored.display_name, **keys[0], "public_keys": keys}
