"""Rooms that new users join by themselves, made by the first of them if they are not there."""

import logging
from typing import cast, get_args

import attrs
import trio

from hs.core.errors import MatrixError, NotFound, RemoteFault, Unavailable
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, localpart_of, server_of
from hs.core.requester import Requester
from hs.services.rooms.aliases.room_aliases import RoomNaming
from hs.services.rooms.creation.initial_events import NewRoomRequest, Preset
from hs.services.rooms.creation.room_creation import RoomCreation
from hs.services.rooms.membership.membership import JoinRequest, RoomMembership
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.rooms import RoomSettings
from hs.storage.accounts import users
from hs.storage.database import Database

LONGEST_S = 30.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class AutoJoin:
    """Brings new users into the rooms of the configuration."""

    settings: RoomSettings
    server_name: ServerName
    database: Database
    naming: RoomNaming
    creation: RoomCreation
    membership: RoomMembership
    memberships: Memberships

    async def arrived(self, user_id: UserID, *, is_guest: bool) -> None:
        """Have a new user join; what goes wrong is logged, since the account is made."""
        if is_guest and not self.settings.auto_join_rooms_for_guests:
            return
        with trio.move_on_after(LONGEST_S) as scope:
            for name in self.settings.auto_join_rooms:
                try:
                    await self._bring(user_id, name)
                except (MatrixError, RemoteFault, Unavailable) as error:
                    log.warning("%s does not join %s: %s", user_id, name, error)
        if scope.cancelled_caught:
            log.warning("%s has not joined all of the first rooms in time", user_id)

    async def _bring(self, user_id: UserID, name: str) -> None:
        try:
            room_id, via = await self.naming.find_room(name, ())
        except NotFound:
            if not await self._may_make(name):
                raise
            room_id, via = await self._make(user_id, RoomAlias(name)), ()
        await self._invite(user_id, room_id)
        await self.membership.join(Requester(user_id), room_id, JoinRequest(via=via))

    @property
    def _host(self) -> UserID | None:
        localpart = self.settings.auto_join_mxid_localpart
        return None if localpart is None else UserID(f"@{localpart}:{self.server_name}")

    async def _may_make(self, name: str) -> bool:
        """Tell whether a room is to be made: by its host, or by the first user there is."""
        is_ours = name.startswith("#") and server_of(RoomAlias(name)) == self.server_name
        if not self.settings.autocreate_auto_join_rooms or not is_ours:
            return False
        host = self._host
        if host is not None:
            return host in await self.database.read(users.existing, [host])
        return not await self.database.read(users.has_several_users)

    async def _make(self, user_id: UserID, alias: RoomAlias) -> RoomID:
        federated = self.settings.autocreate_auto_join_rooms_federated
        preset = self.settings.autocreate_auto_join_room_preset
        assert preset in get_args(Preset)
        asked = NewRoomRequest(
            preset=cast(Preset, preset),  # the settings know the same words
            alias_localpart=localpart_of(alias),
            creation_content={} if federated else {"m.federate": False},
        )
        room_id = await self.creation.create(Requester(self._host or user_id), asked)
        log.info("made the room %s for new users", alias)
        return room_id

    async def _invite(self, user_id: UserID, room_id: RoomID) -> None:
        """Have the host invite, where the room lets in only who is invited."""
        host = self._host
        if host is None or host == user_id:
            return
        known = await self.memberships.local_membership(room_id, host)
        own = await self.memberships.local_membership(room_id, user_id)
        is_here = known is not None and known.membership == event_types.JOIN
        is_welcome = own is not None and own.membership in (event_types.JOIN, event_types.INVITE)
        if is_here and not is_welcome:
            await self.membership.invite(Requester(host, is_admin=True), room_id, user_id)
