"""Aliases of rooms and the room directory."""

import attrs

from hs.apis.client.directory.public_rooms import PublicRoomsApi
from hs.apis.client.directory.room_aliases import DirectoryApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.rooms import Rooms
from hs.services.directory.aliases import Aliases, AliasNamespaces
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.aliases.canonical_aliases import AliasResolver
from hs.services.rooms.aliases.room_aliases import RoomNaming


@attrs.frozen(eq=False, kw_only=True)
class AliasServices:
    """Aliases, their resolver, and the room directory."""

    aliases: Aliases
    resolver: AliasResolver
    public_rooms: PublicRooms
    naming: RoomNaming
    part: Part


def wire_room_aliases(
    base: ProcessBase, rooms: Rooms, namespaces: AliasNamespaces
) -> AliasServices:
    """Build aliases; `namespaces` are those that application services reserve."""
    settings, database = base.settings, base.database
    server_name = settings.server.server_name
    aliases = Aliases(database, server_name, settings.rooms, base.clock, namespaces)
    public_rooms = PublicRooms(database, settings.rooms)
    resolver = AliasResolver(aliases, rooms.remote)
    naming = RoomNaming(
        aliases=aliases,
        public_rooms=public_rooms,
        resolver=resolver,
        deciding=rooms.auth_states,
        memberships=rooms.memberships,
        appender=rooms.appender,
        server_name=server_name,
        members_only=settings.rooms.require_membership_for_aliases,
    )
    listing = PublicRoomsApi(
        public_rooms, server_name, settings.server.allow_public_rooms_without_auth
    )
    return AliasServices(
        aliases=aliases,
        resolver=resolver,
        public_rooms=public_rooms,
        naming=naming,
        part=Part(endpoints=[DirectoryApi(naming, public_rooms), listing]),
    )
