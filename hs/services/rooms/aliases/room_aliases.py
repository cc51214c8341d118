"""Room aliases and the room directory: who may change them, by the rooms' own rules.

The aliases themselves are stored by services/directory. Spec: client-server API, Room aliases.
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
from hs.services.directory.aliases import LocalAliases
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.aliases.canonical_aliases import AliasResolver
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.auth_state import HISTORY_VISIBILITY_KEY, AuthState, AuthStateReader
from hs.services.rooms.store.memberships import Memberships

MAX_SERVERS = 50
ATTEMPTS = 10  # if others change the canonical alias at the same time
_CANONICAL_KEY = (event_types.CANONICAL_ALIAS, "")


@attrs.frozen(eq=False, kw_only=True)
class RoomAliases:
    """Resolves, adds and removes aliases, and lists rooms in the directory."""

    aliases: LocalAliases
    public_rooms: PublicRooms
    resolver: AliasResolver
    auth_states: AuthStateReader
    memberships: Memberships
    appender: RoomAppender
    server_name: ServerName
    members_only: bool  # only members may add aliases (`require_membership_for_aliases`)

    async def find_room(
        self, room: str, via: Sequence[ServerName]
    ) -> tuple[RoomID, Sequence[ServerName]]:
        """Return the room that an ID or alias refers to, and servers to reach it through.

        Raises: InvalidParam, NotFound, RemoteFault.
        """
        if not room.startswith("#"):
            return parse_room_id(room), via
        room_id, servers = await self.resolver.resolve(parse_room_alias(room))
        return room_id, [*via, *(ServerName(server) for server in servers)]

    async def look_up(self, alias: RoomAlias) -> tuple[RoomID, list[ServerName]]:
        """Return an alias's room, and servers that are in it. Raises: NotFound, RemoteFault."""
        room_id, servers = await self.resolver.resolve(alias)
        if servers:
            return room_id, [ServerName(server) for server in servers]
        return room_id, await self.servers_in(room_id)

    async def servers_in(self, room_id: RoomID) -> list[ServerName]:
        """Return servers that are in a room, this server first."""
        joined = (await self.memberships.present(room_id)).joined
        servers = dict.fromkeys((self.server_name, *(server_of(user_id) for user_id in joined)))
        return list(servers)[:MAX_SERVERS]

    async def add_alias(self, requester: Requester, alias: RoomAlias, room_id: RoomID) -> None:
        """Add an alias of a room.

        Raises: Forbidden, if the requester is not in the room; NotFound; InvalidParam; Exclusive;
            MatrixError 409.
        """
        check_may_act(requester)
        if not self.aliases.is_local(alias):
            raise InvalidParam("The alias does not belong to this server")
        self.aliases.check_may_manage(requester, alias)
        await self._check_may_name(requester, room_id)
        await self.aliases.add(requester.user_id, alias, room_id)

    async def remove_alias(self, requester: Requester, alias: RoomAlias) -> None:
        """Remove an alias, also from the canonical alias event if the requester may change that.

        Allowed for the user who added the alias, users who may change the canonical alias,
        application services with the alias in their namespace, and administrators.
        Raises: NotFound, Forbidden, Exclusive.
        """
        check_may_act(requester)
        if not requester.is_admin:
            self.aliases.check_may_manage(requester, alias)
        stored_alias = await self.aliases.find(alias) if self.aliases.is_local(alias) else None
        if stored_alias is None:
            raise NotFound(f"Room alias {alias} not found.")
        user_id = requester.user_id
        room = await self.auth_states.read(
            stored_alias.room_id, members=(user_id,), more=(_CANONICAL_KEY,)
        )
        may_rename = room is not None and room.may_send_state(user_id, event_types.CANONICAL_ALIAS)
        # An application service manages all aliases of its namespace, whoever added them.
        may_delete = requester.is_admin or requester.appservice_id is not None
        if not may_rename and stored_alias.creator != user_id and not may_delete:
            raise Forbidden("You may not delete this alias")
        await self.aliases.remove(alias, stored_alias.room_id)
        for _ in range(ATTEMPTS):
            if (
                room is None
                or not may_rename
                or await self._remove_canonical_alias(user_id, room, alias)
            ):
                return
            room = await self.auth_states.read(stored_alias.room_id, more=(_CANONICAL_KEY,))

    async def aliases_of(self, requester: Requester, room_id: RoomID) -> list[RoomAlias]:
        """Return the aliases of a room on this server. Raises: Forbidden."""
        room = await self.auth_states.read(
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
        """Add a room to the directory, or remove it.

        Allowed for users who may change the canonical alias, and for administrators.
        Raises: NotFound, Forbidden.
        """
        check_may_act(requester)
        user_id = requester.user_id
        room = await self.auth_states.read(room_id, members=(user_id,))
        if room is None:
            raise NotFound("Room not found")
        if not requester.is_admin and not room.may_send_state(user_id, event_types.CANONICAL_ALIAS):
            raise Forbidden("You may not change whether this room is listed in the directory")
        if listed:
            names = await self.aliases.of_room(room_id)
            self.public_rooms.check_may_publish(user_id, room_id, names)
        await self.public_rooms.set_listed(room_id, listed)

    async def _check_may_name(self, requester: Requester, room_id: RoomID) -> AuthState:
        room = await self.auth_states.read(room_id, members=(requester.user_id,))
        if room is None:
            raise NotFound("Room not found")
        is_in = room.membership(requester.user_id) == event_types.JOIN
        may_anyway = requester.appservice_id is not None or requester.is_admin
        if self.members_only and not is_in and not may_anyway:
            raise Forbidden("You are not in this room")
        return room

    async def _remove_canonical_alias(
        self, user_id: UserID, room: AuthState, alias: RoomAlias
    ) -> bool:
        """Remove an alias from the canonical alias event; return False if that has changed."""
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
    """Return the content of a canonical alias event without an alias."""
    changed: JsonObject = dict(content)
    if changed.get("alias") == alias:
        del changed["alias"]
    alternatives = changed.get("alt_aliases")
    if isinstance(alternatives, list) and alias in alternatives:
        changed["alt_aliases"] = [each for each in alternatives if each != alias]
        if not changed["alt_aliases"]:
            del changed["alt_aliases"]
    return changed
