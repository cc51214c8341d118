"""Rooms that new users join automatically, created by the first user if they do not exist."""

import logging
from typing import cast, get_args

import attrs
import trio

from hs.core.errors import MatrixError, NotFound, RemoteFault, Unavailable
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, localpart_of, server_of
from hs.core.requester import Requester
from hs.services.rooms.aliases.room_aliases import RoomAliases
from hs.services.rooms.creation.initial_events import NewRoomRequest, Preset
from hs.services.rooms.creation.room_creation import RoomCreation
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.membership.room_joins import JoinRequest, RoomJoins
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.rooms import RoomSettings
from hs.storage.accounts import users
from hs.storage.database import Database

JOIN_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class AutoJoinRooms:
    """Joins new users to the rooms of the configuration.

    `notices_user` sends server notices; its account is created before that of the first user.
    """

    notices_user: UserID | None
    settings: RoomSettings
    server_name: ServerName
    database: Database
    naming: RoomAliases
    creation: RoomCreation
    joins: RoomJoins
    membership: RoomMembership
    memberships: Memberships

    async def on_new_user(self, user_id: UserID, *, is_guest: bool) -> None:
        """Join a new user to the rooms; errors are logged, as the account exists already."""
        if is_guest and not self.settings.auto_join_rooms_for_guests:
            return
        with trio.move_on_after(JOIN_TIMEOUT_S) as scope:
            for name in self.settings.auto_join_rooms:
                try:
                    await self._join(user_id, name)
                except (MatrixError, RemoteFault, Unavailable) as error:
                    log.warning("new user %s could not join room %s: %s", user_id, name, error)
        if scope.cancelled_caught:
            log.warning("timed out joining new user %s to all auto-join rooms", user_id)

    async def _join(self, user_id: UserID, name: str) -> None:
        try:
            room_id, via = await self.naming.find_room(name, ())
        except NotFound:
            if not await self._may_create(name):
                raise
            room_id, via = await self._create(user_id, RoomAlias(name)), ()
        await self._invite(user_id, room_id)
        await self.joins.join(Requester(user_id), room_id, JoinRequest(via=via))

    @property
    def _host(self) -> UserID | None:
        localpart = self.settings.auto_join_mxid_localpart
        return None if localpart is None else UserID(f"@{localpart}:{self.server_name}")

    async def _may_create(self, name: str) -> bool:
        """Return whether to create a room: its host exists, or this is the first user."""
        is_ours = name.startswith("#") and server_of(RoomAlias(name)) == self.server_name
        if not self.settings.autocreate_auto_join_rooms or not is_ours:
            return False
        host = self._host
        if host is not None:
            return host in await self.database.read(users.existing_users, [host])
        return not await self.database.read(users.has_multiple_users, self.notices_user)

    async def _create(self, user_id: UserID, alias: RoomAlias) -> RoomID:
        federated = self.settings.autocreate_auto_join_rooms_federated
        preset = self.settings.autocreate_auto_join_room_preset
        assert preset in get_args(Preset)
        request = NewRoomRequest(
            preset=cast(Preset, preset),  # the setting has the same values
            alias_localpart=localpart_of(alias),
            creation_content={} if federated else {"m.federate": False},
        )
        room_id = await self.creation.create(Requester(self._host or user_id), request)
        log.info("created room %s for new users", alias)
        return room_id

    async def _invite(self, user_id: UserID, room_id: RoomID) -> None:
        """Invite the user as the host, if they are not joined or invited already."""
        host = self._host
        if host is None or host == user_id:
            return
        host_membership = await self.memberships.local_membership(room_id, host)
        own = await self.memberships.local_membership(room_id, user_id)
        host_is_joined = (
            host_membership is not None and host_membership.membership == event_types.JOIN
        )
        is_invited = own is not None and own.membership in (event_types.JOIN, event_types.INVITE)
        if host_is_joined and not is_invited:
            await self.membership.invite(Requester(host, is_admin=True), room_id, user_id)
