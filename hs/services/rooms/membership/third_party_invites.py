"""Inviting people by their address: those whom an identity server knows, and those yet to come.

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
from hs.core.ids import RoomID, UserID, parse_room_id
from hs.core.requester import Requester
from hs.core.threepids import canonical_email
from hs.lib.limiter import RateLimiter
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.accounts.limits.rate_limits import refuse_over
from hs.services.accounts.threepids.identity_servers import IdentityServers, StoredInvite
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.store.auth_state import Deciding, DecidingReader

MAX_BOUND_INVITES: Final = 50

# What an identity server may tell about the room in its e-mail: its name for it, the event, the
# property.
_TOLD: Final = (
    ("room_alias", event_types.CANONICAL_ALIAS, "alias"),
    ("room_avatar_url", event_types.AVATAR, "url"),
    ("room_join_rules", event_types.JOIN_RULES, "join_rule"),
    ("room_name", event_types.NAME, "name"),
    ("room_type", event_types.CREATE, "type"),
)
_SETTLED: Final = frozenset((event_types.JOIN, event_types.INVITE, event_types.BAN))

log = logging.getLogger(__name__)


@attrs.frozen
class InvitedAddress:
    """Whom to invite, and which identity server to ask, with the user's token there."""

    id_server: str
    id_access_token: str
    medium: str
    address: str


@attrs.frozen(eq=False, kw_only=True)
class ThirdPartyInvites:
    """Invites by address, and turns such invites into real ones."""

    servers: IdentityServers
    appender: RoomAppender
    deciding: DecidingReader
    membership: RoomMembership
    limiter: RateLimiter[str]
    looks_up: bool = True

    async def invite(
        self,
        requester: Requester,
        room_id: RoomID,
        asked: InvitedAddress,
        reason: str | None = None,
    ) -> None:
        """Invite whoever has an address. Raises: MatrixError, Forbidden, RemoteFault."""
        found = await self.user_of(requester, asked)
        if found is not None:
            await self.membership.invite(requester, room_id, found, reason)
        else:
            await self.offer(requester, room_id, asked)

    async def user_of(self, requester: Requester, asked: InvitedAddress) -> UserID | None:
        """Ask whose an address is, for an invite; count it. Raises: as `invite`."""
        check_may_act(requester)
        self.membership.policy.check_may_invite(requester)
        if not self.looks_up:
            raise Forbidden("Looking up addresses is not allowed on this server")
        if not requester.unlimited:
            refuse_over(self.limiter, requester.user_id)
        asked = _usual(asked)
        return await self.servers.lookup(
            asked.id_server, asked.id_access_token, asked.medium, asked.address
        )

    async def offer(self, requester: Requester, room_id: RoomID, asked: InvitedAddress) -> None:
        """Leave an invite for whoever proves that an address is theirs. Raises: as `invite`."""
        user_id = requester.user_id
        here = await self._room_for(user_id, room_id)
        stored = await self.servers.store_invite(
            asked.id_server, asked.id_access_token, self._told(here, user_id, _usual(asked))
        )
        content = _offer(stored)
        draft = Draft(event_types.THIRD_PARTY_INVITE, user_id, content, stored.token)
        try:
            await self.appender.append(room_id, [draft])
        except NotFound as error:
            raise Forbidden("You are not in this room") from error

    async def bound(self, user_id: UserID, invites: Sequence[Mapping[str, Any]]) -> None:
        """Make the invites real that were left for an address this user has proved to have.

        All are tried; then the last fault is raised, if there was any.
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
                    raise InvalidParam("signed is for another user")
                await self._exchange(user_id, room_id, signed)
            except (MatrixError, RemoteFault) as error:
                log.info("a third-party invite of %s comes to nothing: %s", user_id, error)
                fault = error
        if fault is not None:
            raise fault

    async def _exchange(self, user_id: UserID, room_id: RoomID, signed: JsonObject) -> None:
        token = signed.get("token")
        if not isinstance(token, str) or "\0" in token:
            raise InvalidParam("signed lacks a token")
        key = (event_types.THIRD_PARTY_INVITE, token)
        here = await self.deciding.read(room_id, members=(user_id,), more=(key,))
        offer = None if here is None else here.events.get(key)
        if here is None or offer is None:
            raise Forbidden("The room has no such third-party invite")
        if here.membership(user_id) in _SETTLED:
            return
        urls = keys_that_signed(offer.content, signed)
        if not urls or not await self.servers.is_any_valid(urls):
            raise Forbidden("The third-party invite is not signed by a valid key")
        draft = await self.membership.accepted(room_id, user_id, signed)
        await self.appender.append(room_id, [draft])

    async def _room_for(self, user_id: UserID, room_id: RoomID) -> Deciding:
        """Read a room, for an invite whose e-mail cannot be taken back. Raises: Forbidden."""
        more = [(event_type, "") for _, event_type, _ in _TOLD]
        here = await self.deciding.read(room_id, members=(user_id,), more=more)
        if here is None or here.membership(user_id) != event_types.JOIN:
            raise Forbidden("You are not in this room")
        if here.power.of_user(user_id) < here.power.invite:
            raise Forbidden(f"Inviting needs power {here.power.invite}")
        return here

    @staticmethod
    def _told(here: Deciding, user_id: UserID, asked: InvitedAddress) -> JsonObject:
        told = {name: here.text(kind, field) for name, kind, field in _TOLD}
        member = here.events[(event_types.MEMBER, user_id)].content
        told["sender_display_name"] = member.get("displayname")
        told["sender_avatar_url"] = member.get("avatar_url")
        return {
            **{name: value for name, value in told.items() if isinstance(value, str)},
            "medium": asked.medium,
            "address": asked.address,
            "room_id": here.room_id,
            "sender": user_id,
        }


def _usual(asked: InvitedAddress) -> InvitedAddress:
    if asked.medium == "email":
        return attrs.evolve(asked, address=canonical_email(asked.address))
    return asked


def _offer(stored: StoredInvite) -> JsonObject:
    keys = [{"public_key": key, "key_validity_url": url} for key, url in stored.public_keys]
    # Spec: m.room.third_party_invite; the first key stands outside as well, for old servers.
    return {"display_name": stored.display_name, **keys[0], "public_keys": keys}
