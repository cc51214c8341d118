"""Aliases of rooms and the room directory."""

import attrs

from hs.apis.client.directory.public_rooms import PublicRoomsApi
from hs.apis.client.directory.room_aliases import RoomAliasesApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.directory.aliases import AliasNamespaces, LocalAliases
from hs.services.directory.public_rooms import PublicRooms, RoomDirectories
from hs.services.rooms.aliases.canonical_aliases import AliasResolver
from hs.services.rooms.aliases.room_aliases import RoomAliases
from hs.services.rooms.membership.remote_rooms import RemoteRooms


@attrs.frozen(eq=False, kw_only=True)
class AliasServices:
    """Aliases, their resolver, and the room directory."""

    aliases: LocalAliases
    resolver: AliasResolver
    public_rooms: PublicRooms
    naming: RoomAliases
    part: Part


def wire_room_aliases(
    base: ProcessBase,
    rooms: Rooms,
    remote: RemoteRooms,
    directories: RoomDirectories,
    namespaces: AliasNamespaces,
) -> AliasServices:
    """Build aliases; `namespaces` are those that application services reserve."""
    settings, database = base.settings, base.database
    server_name = settings.server.server_name
    aliases = LocalAliases(database, server_name, settings.rooms, base.clock, namespaces)
    public_rooms = PublicRooms(database, settings.rooms)
    resolver = AliasResolver(aliases, remote)
    naming = RoomAliases(
        aliases=aliases,
        public_rooms=public_rooms,
        resolver=resolver,
        auth_states=rooms.auth_states,
        memberships=rooms.memberships,
        appender=rooms.appender,
        server_name=server_name,
        members_only=settings.rooms.require_membership_for_aliases,
    )
    open_to_all = settings.server.allow_public_rooms_without_auth
    listing = PublicRoomsApi(public_rooms, directories, server_name, open_to_all)
    return AliasServices(
        aliases=aliases,
        resolver=resolver,
        public_rooms=public_rooms,
        naming=naming,
        part=Part(endpoints=[RoomAliasesApi(naming, public_rooms), listing]),
    )
