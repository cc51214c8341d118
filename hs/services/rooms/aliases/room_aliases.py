"""Naming and listing rooms: who may, by the rooms' own rules.

The aliases themselves are services/directory's. Spec: client-server API, Room aliases.
"""

from collections.abc import Mapping, Sequence

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadState, Forbidden, InvalidParam, NotFound
from hs.core.events import event_types
from hs.core.ids import (
    RoomAlias,
    RoomID,
    ServerName,
    UserID,
    parse_room_alias,
    parse_room_id,
    server_of,
)
from hs.core.requester import Requester
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.directory.aliases import Aliases
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.aliases.canonical_aliases import AliasResolver
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.auth_state import HISTORY_VISIBILITY_KEY, Deciding, DecidingReader
from hs.services.rooms.store.memberships import Memberships

MAX_SERVERS = 50
ATTEMPTS = 10  # to change what nobody else has changed meanwhile
_CANONICAL_KEY = (event_types.CANONICAL_ALIAS, "")


@attrs.frozen(eq=False, kw_only=True)
class RoomNaming:
    """Finds rooms by name, names them and lists them."""

    aliases: Aliases
    public_rooms: PublicRooms
    resolver: AliasResolver
    deciding: DecidingReader
    memberships: Memberships
    appender: RoomAppender
    server_name: ServerName
    members_only: bool = True  # make aliases, by `require_membership_for_aliases`

    async def find_room(
        self, room: str, via: Sequence[ServerName]
    ) -> tuple[RoomID, Sequence[ServerName]]:
        """Give the room that an ID or alias means, and the servers to reach it by.

        Raises: InvalidParam, NotFound, RemoteFault.
        """
        if not room.startswith("#"):
            return parse_room_id(room), via
        room_id, servers = await self.resolver.resolve(parse_room_alias(room))
        return room_id, [*via, *(ServerName(one) for one in servers)]

    async def look_up(self, alias: RoomAlias) -> tuple[RoomID, list[ServerName]]:
        """Give an alias's room, and servers that are in it. Raises: NotFound, RemoteFault."""
        room_id, servers = await self.resolver.resolve(alias)
        if servers:
            return room_id, [ServerName(one) for one in servers]
        return room_id, await self.servers_in(room_id)

    async def servers_in(self, room_id: RoomID) -> list[ServerName]:
        """List servers that are in a room, this one first."""
        joined = (await self.memberships.present(room_id)).joined
        servers = dict.fromkeys((self.server_name, *(server_of(one) for one in joined)))
        return list(servers)[:MAX_SERVERS]

    async def add_alias(self, requester: Requester, alias: RoomAlias, room_id: RoomID) -> None:
        """Have an alias stand for a room.

        Raises: Forbidden to who is not in the room; NotFound; InvalidParam; Exclusive;
        MatrixError 409.
        """
        check_may_act(requester)
        if not self.aliases.is_local(alias):
            raise InvalidParam("The alias is not of this server")
        self.aliases.check_may_manage(requester, alias)
        await self._read_as(requester, room_id)
        await self.aliases.add(requester.user_id, alias, room_id)

    async def remove_alias(self, requester: Requester, alias: RoomAlias) -> None:
        """Remove an alias, and its mention in the room's canonical alias if one may.

        Allowed to who made it, to who may change the canonical alias, and to administrators.
        Raises: NotFound, Forbidden, Exclusive.
        """
        check_may_act(requester)
        if not requester.is_admin:
            self.aliases.check_may_manage(requester, alias)
        found = await self.aliases.find(alias) if self.aliases.is_local(alias) else None
        if found is None:
            raise NotFound(f"Room alias {alias} not found.")
        user_id = requester.user_id
        room = await self.deciding.read(found.room_id, members=(user_id,), more=(_CANONICAL_KEY,))
        may_rename = room is not None and room.may_send_state(user_id, event_types.CANONICAL_ALIAS)
        # A service manages all of its namespace, whoever made the aliases there.
        may_delete = requester.is_admin or requester.appservice_id is not None
        if not may_rename and found.creator != user_id and not may_delete:
            raise Forbidden("You may not delete this alias")
        await self.aliases.remove(alias, found.room_id)
        for _ in range(ATTEMPTS):
            if room is None or not may_rename or await self._without_alias(user_id, room, alias):
                return
            room = await self.deciding.read(found.room_id, more=(_CANONICAL_KEY,))

    async def aliases_of(self, requester: Requester, room_id: RoomID) -> list[RoomAlias]:
        """List the aliases this server knows of a room. Raises: Forbidden."""
        room = await self.deciding.read(
            room_id, members=(requester.user_id,), more=(HISTORY_VISIBILITY_KEY,)
        )
        is_open = room is not None and (
            room.membership(requester.user_id) == event_types.JOIN
            or room.text(event_types.HISTORY_VISIBILITY, "history_visibility") == "world_readable"
            or requester.is_admin
        )
        if not is_open:
            raise Forbidden("You are not in this room")
        return await self.aliases.of_room(room_id)

    async def set_listed(self, requester: Requester, room_id: RoomID, listed: bool) -> None:
        """Put a room into the directory or take it out.

        Allowed to who may change the canonical alias, and to administrators.
        Raises: NotFound, Forbidden.
        """
        check_may_act(requester)
        user_id = requester.user_id
        room = await self.deciding.read(room_id, members=(user_id,))
        if room is None:
            raise NotFound("Room not found")
        if not requester.is_admin and not room.may_send_state(user_id, event_types.CANONICAL_ALIAS):
            raise Forbidden("You may not change this room's place in the directory")
        if listed:
            names = await self.aliases.of_room(room_id)
            self.public_rooms.check_may_publish(user_id, room_id, names)
        await self.public_rooms.set_listed(room_id, listed)

    async def _read_as(self, requester: Requester, room_id: RoomID) -> Deciding:
        room = await self.deciding.read(room_id, members=(requester.user_id,))
        if room is None:
            raise NotFound("Room not found")
        is_in = room.membership(requester.user_id) == event_types.JOIN
        may_anyway = requester.appservice_id is not None or requester.is_admin
        if self.members_only and not is_in and not may_anyway:
            raise Forbidden("You are not in this room")
        return room

    async def _without_alias(self, user_id: UserID, room: Deciding, alias: RoomAlias) -> bool:
        """Take an alias out of a room's canonical alias; tell whether that was still as read."""
        current = room.events.get(_CANONICAL_KEY)
        if current is None:
            return True
        content = content_without(current.content, alias)
        if content == current.content:
            return True
        draft = Draft(event_types.CANONICAL_ALIAS, user_id, content, "", replaces=current.event_id)
        try:
            await self.appender.append(room.room_id, [draft])
        except BadState:
            return False
        return True


def content_without(content: Mapping[str, object], alias: RoomAlias) -> JsonObject:
    """Give a canonical alias's content that does not mention an alias any more."""
    kept: JsonObject = dict(content)
    if kept.get("alias") == alias:
        del kept["alias"]
    others = kept.get("alt_aliases")
    if isinstance(others, list) and alias in others:
        kept["alt_aliases"] = [one for one in others if one != alias]
        if not kept["alt_aliases"]:
            del kept["alt_aliases"]
    return kept
