"""Creating and upgrading rooms, and the rooms that new users join."""

import attrs

from hs.apis.client.rooms.create_room import CreateRoomApi
from hs.apis.client.rooms.upgrade import RoomUpgradeApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.rooms.aliases import AliasServices
from hs.nursery.wiring.rooms.membership import MembershipServices, notices_user_of
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.rooms.creation.auto_join_rooms import AutoJoinRooms
from hs.services.rooms.creation.create_with_third_party_invites import RoomCreationWithInvites
from hs.services.rooms.creation.room_creation import RoomCreation
from hs.services.rooms.creation.room_upgrade import RoomUpgrade
from hs.services.rooms.creation.upgrade_lock import UpgradeLock
from hs.services.rooms.membership.remote_rooms import RemoteRooms


@attrs.frozen(eq=False, kw_only=True)
class CreationServices:
    """Creating and upgrading rooms, and joining new users to `auto_join_rooms`."""

    creation: RoomCreation
    upgrades: RoomUpgrade
    auto_join: AutoJoinRooms
    part: Part


def wire_room_creation(
    base: ProcessBase,
    rooms: Rooms,
    remote: RemoteRooms,
    accounts: AccountServices,
    aliases: AliasServices,
    members: MembershipServices,
) -> CreationServices:
    """Build creation and upgrades."""
    settings = base.settings
    creation = RoomCreation(
        appender=rooms.appender,
        aliases=aliases.aliases,
        public_rooms=aliases.public_rooms,
        profiles=accounts.profiles,
        remote=remote,
        limits=members.limits,
        invites=members.invites,
        policy=members.policy,
        settings=settings.rooms,
        server_name=settings.server.server_name,
    )
    upgrades = RoomUpgrade(
        appender=rooms.appender,
        auth_states=rooms.auth_states,
        states=rooms.states,
        events=rooms.events,
        aliases=aliases.aliases,
        profiles=accounts.profiles,
        succession=members.succession,
        database=base.database,
        lock=UpgradeLock(base.leases),
    )
    auto_join = AutoJoinRooms(
        notices_user=notices_user_of(settings),
        settings=settings.rooms,
        server_name=settings.server.server_name,
        database=base.database,
        naming=aliases.naming,
        creation=creation,
        joins=members.joins,
        membership=members.membership,
        memberships=rooms.memberships,
    )
    endpoints = [
        CreateRoomApi(RoomCreationWithInvites(creation, members.third_party_invites)),
        RoomUpgradeApi(upgrades),
    ]
    return CreationServices(
        creation=creation,
        upgrades=upgrades,
        auto_join=auto_join,
        part=Part(endpoints=endpoints),
    )
