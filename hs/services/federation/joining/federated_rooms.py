"""Joins, knocks, leaves and invites through other servers."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from hs.core.errors import InvalidParam, RemoteFault
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, parse_server_name, server_of
from hs.services.federation.joining.candidates import error_for_client
from hs.services.federation.joining.guest_access import GuestAccess
from hs.services.federation.joining.outgoing_invites import OutgoingInvites
from hs.services.federation.joining.outside_changes import OutsideChanges
from hs.services.federation.joining.remote_aliases import RemoteAliases
from hs.services.federation.joining.remote_joins import RemoteJoins
from hs.services.federation.requests.membership import exchange_third_party_invite
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.append.drafts import Draft


@attrs.frozen(eq=False, kw_only=True)
class FederatedRooms:
    """The RemoteRooms of a server with federation."""

    aliases: RemoteAliases
    joins: RemoteJoins
    guests: GuestAccess
    changes: OutsideChanges
    invites: OutgoingInvites
    client: FederationClient

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> bool:
        """Join a room through one of the servers; see RemoteRooms."""
        return await self.joins.join(user_id, room_id, via, content)

    async def allows_guests(
        self, user_id: UserID, room_id: RoomID, via: Sequence[ServerName]
    ) -> bool:
        """Return whether guests may join a room; see RemoteRooms."""
        return await self.guests.allows_guests(user_id, room_id, via)

    async def join_authorised(
        self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]
    ) -> bool:
        """Join a room that this server is in; see RemoteRooms."""
        return await self.joins.join_authorised(user_id, room_id, content)

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> None:
        """Knock on a room through one of the servers. Raises: MatrixError, RemoteFault."""
        await self.changes.knock(user_id, room_id, via, content)

    async def leave(self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Reject an invite or retract a knock. Raises: Forbidden."""
        await self.changes.leave(user_id, room_id, content)

    async def invite(self, room_id: RoomID, draft: Draft) -> None:
        """Invite a user of another server to a local room. Raises: MatrixError, RemoteFault."""
        await self.invites.invite(room_id, draft)

    async def invite_for(self, room_id: RoomID, draft: Draft) -> None:
        """Invite a local user for a user of another server. Raises: MatrixError."""
        await self.invites.invite_for(room_id, draft)

    def check_can_invite(self, user_id: UserID) -> None:
        """Raise InvalidParam if the name of the user's server is not valid."""
        try:
            parse_server_name(server_of(user_id))
        except InvalidParam:
            raise InvalidParam(f"{user_id} does not belong to a server") from None

    async def exchange_third_party_invite(
        self, server: ServerName, room_id: RoomID, event: Mapping[str, Any]
    ) -> None:
        """Ask the inviter's server for an invite. Raises: MatrixError, RemoteFault."""
        try:
            await exchange_third_party_invite(self.client, server, room_id, event)
        except RemoteFault as fault:
            raise error_for_client(fault) from fault

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Resolve an alias of another server. Raises: NotFound, RemoteFault."""
        return await self.aliases.find(alias)
